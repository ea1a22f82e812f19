#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "weight_gradient_kernel.h"
// After every standard header.
#include "simd_begin.h"

namespace {

// Registers that hold sums: a tile of kColumns vectors of channels and kSums / kColumns weights.
constexpr int kSums = kVectorBytes == 64 ? 24 : 12;
// Of packed deltas and inputs, what stays in the second-level cache while tiles go by.
constexpr int64_t kBlockBytes = 192 * 1024;

template <typename T, int Columns>
struct Sums {
  static constexpr int kDepth = kSums / Columns;
  Vector<T> at[kDepth][Columns];
};

// sums[q][.] = sum over l of x[q][l_offsets[l]] * delta[l][.]; x holds one pointer for each q.
template <typename T, int Columns>
FISHERMASK_INLINE Sums<T, Columns> multiply(const T* const* x, const int64_t* l_offsets,
                                            int64_t n_l, const T* delta) {
  constexpr int kDepth = Sums<T, Columns>::kDepth;
  Sums<T, Columns> sums{};
  for (int64_t l = 0; l < n_l; ++l, delta += Columns * kLanes<T>) {
    const int64_t at = l_offsets[l];
    Vector<T> d[Columns];
#pragma GCC unroll 2
    for (int c = 0; c < Columns; ++c) d[c] = load(delta + c * kLanes<T>);
#pragma GCC unroll 24
    for (int q = 0; q < kDepth; ++q) {
      const Vector<T> value = broadcast(x[q][at]);
#pragma GCC unroll 2
      for (int c = 0; c < Columns; ++c) {
        sums.at[q][c] = multiply_add(value, d[c], sums.at[q][c]);
      }
    }
  }
  return sums;
}

template <typename T>
int columns_of(const WeightGradient<T>& problem) {
  return problem.n_o > kLanes<T> ? 2 : 1;
}

// A tile's place among all of them.
struct Place {
  int64_t group, block, first_k;
};

template <typename T>
Place place_of(const WeightGradient<T>& problem, Tile tile, int64_t index) {
  const int64_t deep = (problem.n_k + tile.depth - 1) / tile.depth;
  const int64_t wide = (problem.n_o + tile.width - 1) / tile.width;
  return {index / deep / wide, index / deep % wide, index % deep * tile.depth};
}

// Where the weights of a tile stand in sample 0; past the last weight, that one again.
template <typename T>
void find_weights(const WeightGradient<T>& problem, const Place& place, int64_t depth,
                  const T** x) {
  for (int64_t q = 0; q < depth; ++q) {
    const int64_t k = std::min(place.first_k + q, problem.n_k - 1);
    x[q] = problem.input + place.group * problem.group_step + problem.k_offsets[k];
  }
}

template <typename T, int Columns>
void sum_tiles(const WeightGradient<T>& problem, const T* packed, int64_t begin, int64_t end,
               T* result) {
  constexpr int kDepth = Sums<T, Columns>::kDepth;
  const Tile tile{Columns * kLanes<T>, kDepth};
  const int64_t wide = (problem.n_o + tile.width - 1) / tile.width;
  const int64_t block_size = problem.n_l * tile.width;
  const int64_t sample_size = problem.groups * wide * block_size;
  const int64_t bytes = sizeof(T) * (sample_size + problem.n_l * (problem.n_k / 4 + 1));
  const int64_t step = std::max<int64_t>(1, kBlockBytes / bytes);
  // Squares summed over samples, (tile, q, width).
  std::vector<T> totals(static_cast<size_t>((end - begin) * kDepth * tile.width), T(0));
  for (int64_t first = 0; first < problem.n; first += step) {
    const int64_t last = std::min(first + step, problem.n);
    for (int64_t index = begin; index < end; ++index) {
      const Place place = place_of(problem, tile, index);
      const T* x[kDepth];
      find_weights(problem, place, kDepth, x);
      for (int q = 0; q < kDepth; ++q) x[q] += first * problem.input_step;
      T* total = totals.data() + (index - begin) * kDepth * tile.width;
      const T* delta =
          packed + first * sample_size + (place.group * wide + place.block) * block_size;
      for (int64_t n = first; n < last; ++n, delta += sample_size) {
        const Sums<T, Columns> sums =
            multiply<T, Columns>(x, problem.l_offsets, problem.n_l, delta);
        for (int q = 0; q < kDepth; ++q) {
          x[q] += problem.input_step;
          for (int c = 0; c < Columns; ++c) {
            T* to = total + (q * Columns + c) * kLanes<T>;
            store(to, multiply_add(sums.at[q][c], sums.at[q][c], load(to)));
          }
        }
      }
    }
  }
  for (int64_t index = begin; index < end; ++index) {
    const Place place = place_of(problem, tile, index);
    const T* total = totals.data() + (index - begin) * kDepth * tile.width;
    const int64_t first_o = place.block * tile.width;
    const int64_t n_o = std::min(tile.width, problem.n_o - first_o);
    const int64_t n_k = std::min<int64_t>(kDepth, problem.n_k - place.first_k);
    for (int64_t o = 0; o < n_o; ++o) {
      T* to = result + (place.group * problem.n_o + first_o + o) * problem.n_k + place.first_k;
      for (int64_t q = 0; q < n_k; ++q) to[q] = total[q * tile.width + o];
    }
  }
}

// delta of one block of channels of one sample as (l, width).
template <typename T>
void pack_block(const WeightGradient<T>& problem, const T* from, int64_t n_o, int64_t width,
                T* to) {
  if (n_o < width) std::fill(to, to + problem.n_l * width, T(0));
  if (problem.delta_o == 1) {
    for (int64_t l = 0; l < problem.n_l; ++l) {
      std::copy(from + l * problem.delta_l, from + l * problem.delta_l + n_o, to + l * width);
    }
    return;
  }
  // Few positions at a time, so that the lines written are still there for the next channel.
  constexpr int64_t kTogether = 64;
  for (int64_t first = 0; first < problem.n_l; first += kTogether) {
    const int64_t last = std::min(first + kTogether, problem.n_l);
    for (int64_t o = 0; o < n_o; ++o) {
      const T* row = from + o * problem.delta_o;
      for (int64_t l = first; l < last; ++l) to[l * width + o] = row[l * problem.delta_l];
    }
  }
}

// One entry of one sample: the dot product of a channel's delta with the input of one weight.
template <typename T>
T dot(const WeightGradient<T>& problem, const T* x, const T* delta) {
  if (problem.delta_l != 1) {
    T sum = 0;
    for (int64_t l = 0; l < problem.n_l; ++l) {
      sum += x[problem.l_offsets[l]] * delta[l * problem.delta_l];
    }
    return sum;
  }
  // Runs of positions whose inputs are neighbours, as the rows of a convolution of stride one.
  constexpr int64_t kWide = kLanes<T>;
  Vector<T> sums{};
  T rest = 0;
  int64_t l = 0;
  while (l < problem.n_l) {
    const int64_t at = problem.l_offsets[l];
    if (problem.l_runs[l] >= kWide) {
      sums = multiply_add(load(x + at), load(delta + l), sums);
      l += kWide;
    } else {
      rest += x[at] * delta[l];
      ++l;
    }
  }
  return rest + sum_lanes<T>(sums);
}

struct Entry {
  int64_t position;  // in the index
  int64_t o, k;      // within the group
};

struct Cell {
  int64_t tile;
  int64_t first, last;  // of its entries
};

template <typename T, int Columns>
void entries_of(const WeightGradient<T>& problem, const int64_t* index, int64_t n_index,
                int64_t least_for_tile, int64_t begin, int64_t end, T* result) {
  constexpr int kDepth = Sums<T, Columns>::kDepth;
  const Tile tile{Columns * kLanes<T>, kDepth};
  const int64_t deep = (problem.n_k + tile.depth - 1) / tile.depth;
  const int64_t wide = (problem.n_o + tile.width - 1) / tile.width;
  const int64_t n_tiles = problem.groups * wide * deep;

  // Entries in the order of their tiles, by counting.
  std::vector<Entry> entries(static_cast<size_t>(n_index));
  std::vector<int64_t> starts(static_cast<size_t>(n_tiles + 1), 0);
  const auto tile_at = [&](int64_t i) {
    const int64_t channel = index[i] / problem.n_k, k = index[i] % problem.n_k;
    const int64_t group = channel / problem.n_o, o = channel % problem.n_o;
    return (group * wide + o / tile.width) * deep + k / tile.depth;
  };
  for (int64_t i = 0; i < n_index; ++i) ++starts[static_cast<size_t>(tile_at(i) + 1)];
  std::vector<Cell> cells;
  for (int64_t t = 0; t < n_tiles; ++t) {
    const int64_t first = starts[static_cast<size_t>(t)];
    const int64_t last = first + starts[static_cast<size_t>(t + 1)];
    starts[static_cast<size_t>(t + 1)] = last;
    if (last > first) cells.push_back({t, first, last});
  }
  for (int64_t i = 0; i < n_index; ++i) {
    const int64_t channel = index[i] / problem.n_k;
    entries[static_cast<size_t>(starts[static_cast<size_t>(tile_at(i))]++)] = {
        i, channel % problem.n_o, index[i] % problem.n_k};
  }

  std::vector<T> packed(static_cast<size_t>(problem.n_l * tile.width));
  for (int64_t n = begin; n < end; ++n) {
    T* to = result + (n - begin) * n_index;
    int64_t packed_block = -1;
    for (const Cell& cell : cells) {
      const Place place = place_of(problem, tile, cell.tile);
      const T* delta = problem.delta + n * problem.delta_n;
      const int64_t first_o = place.group * problem.n_o + place.block * tile.width;
      const T* input = problem.input + n * problem.input_step + place.group * problem.group_step;
      if (cell.last - cell.first < least_for_tile) {
        for (int64_t e = cell.first; e < cell.last; ++e) {
          const Entry& entry = entries[static_cast<size_t>(e)];
          const T* channel = delta + (place.group * problem.n_o + entry.o) * problem.delta_o;
          to[entry.position] = dot(problem, input + problem.k_offsets[entry.k], channel);
        }
        continue;
      }
      if (packed_block != place.group * wide + place.block) {
        packed_block = place.group * wide + place.block;
        const int64_t n_o = std::min(tile.width, problem.n_o - place.block * tile.width);
        pack_block(problem, delta + first_o * problem.delta_o, n_o, tile.width, packed.data());
      }
      const T* x[kDepth];
      find_weights(problem, place, kDepth, x);
      for (int q = 0; q < kDepth; ++q) x[q] += n * problem.input_step;
      const Sums<T, Columns> sums =
          multiply<T, Columns>(x, problem.l_offsets, problem.n_l, packed.data());
      T values[kDepth * Columns * kLanes<T>];
      for (int q = 0; q < kDepth; ++q) {
        for (int c = 0; c < Columns; ++c) {
          store(values + (q * Columns + c) * kLanes<T>, sums.at[q][c]);
        }
      }
      for (int64_t e = cell.first; e < cell.last; ++e) {
        const Entry& entry = entries[static_cast<size_t>(e)];
        to[entry.position] =
            values[(entry.k - place.first_k) * tile.width + entry.o - place.block * tile.width];
      }
    }
  }
}

}  // namespace

#define FISHERMASK_DEFINE(T)                                                                 \
  Tile tile_of(const WeightGradient<T>& problem) {                                           \
    const int columns = columns_of(problem);                                                 \
    return {columns * kLanes<T>, kSums / columns};                                           \
  }                                                                                          \
  void pack_delta(const WeightGradient<T>& problem, int64_t begin, int64_t end, T* packed) { \
    const int64_t width = columns_of(problem) * kLanes<T>;                                   \
    const int64_t wide = (problem.n_o + width - 1) / width;                                  \
    T* to = packed + begin * problem.groups * wide * problem.n_l * width;                    \
    for (int64_t n = begin; n < end; ++n) {                                                  \
      for (int64_t block = 0; block < problem.groups * wide; ++block) {                      \
        const int64_t first = block % wide * width;                                          \
        const int64_t channel = block / wide * problem.n_o + first;                          \
        const T* from = problem.delta + n * problem.delta_n + channel * problem.delta_o;     \
        pack_block(problem, from, std::min(width, problem.n_o - first), width, to);          \
        to += problem.n_l * width;                                                           \
      }                                                                                      \
    }                                                                                        \
  }                                                                                          \
  void sum_of_squares(const WeightGradient<T>& problem, const T* packed, int64_t begin,      \
                      int64_t end, T* result) {                                              \
    if (columns_of(problem) == 2) {                                                          \
      sum_tiles<T, 2>(problem, packed, begin, end, result);                                  \
    } else {                                                                                 \
      sum_tiles<T, 1>(problem, packed, begin, end, result);                                  \
    }                                                                                        \
  }                                                                                          \
  void entries(const WeightGradient<T>& problem, const int64_t* index, int64_t n_index,      \
               int64_t least_for_tile, int64_t begin, int64_t end, T* result) {              \
    if (columns_of(problem) == 2) {                                                          \
      entries_of<T, 2>(problem, index, n_index, least_for_tile, begin, end, result);         \
    } else {                                                                                 \
      entries_of<T, 1>(problem, index, n_index, least_for_tile, begin, end, result);         \
    }                                                                                        \
  }
FISHERMASK_DEFINE(float)
FISHERMASK_DEFINE(double)
#undef FISHERMASK_DEFINE

#include "simd_end.h"
