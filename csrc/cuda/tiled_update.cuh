// The updates of one small candidate by a few lanes of a warp, its A and B in their registers.
//
// A lane keeps 2 x 2 tiles of the lower triangle: what it reads of P and R for a tile serves four
// entries. Shared memory holds P and R of one update, two columns of A and of B, and the coupling.
// All lanes of a warp take the same steps, so that a barrier of the warp is one of each group.
#pragma once

#include "common/score_body.h"

namespace fishermask {

// kRows: the most rows, an even number.
template <int kGroup, int kRows>
struct Tiling {
  static constexpr int kBlocks = kRows / 2;
  static constexpr int kTiles = (kBlocks * (kBlocks + 1) / 2 + kGroup - 1) / kGroup;  // of a lane
  static constexpr int kCouplingRows = (kRows + 3) / 4 * 4;  // read four at a time
};

// Doubles of shared memory for one candidate; c is zero where the coupling is left in memory.
template <int kGroup, int kRows, typename T>
__host__ __device__ constexpr int64_t tiled_doubles(int max_rank, int64_t c) {
  const int64_t coupling =
      c * Tiling<kGroup, kRows>::kCouplingRows * static_cast<int64_t>(sizeof(T));
  const int64_t doubles = (2 * static_cast<int64_t>(max_rank) + 4) * kRows + (coupling + 7) / 8;
  // Two more than a multiple of four, so that groups read from different banks.
  return (doubles + 1) / 4 * 4 + 2;
}

// Neighbours that are read and written at once.
template <typename T>
struct alignas(16) Bundle {
  T values[16 / sizeof(T)];
};

template <int kGroup, int kRows, typename Stored, typename T>
class TiledCandidate {
  using Shape = Tiling<kGroup, kRows>;
  static constexpr int kTiles = Shape::kTiles;

 public:
  __device__ TiledCandidate(int lane, int r, int max_rank, double* shared)
      : lane_(lane),
        r_(r),
        staged_(shared),
        columns_(shared + 2 * max_rank * kRows),
        coupling_(reinterpret_cast<T*>(columns_ + 4 * kRows)) {
    const int blocks = (r + 1) / 2;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int e = lane + n * kGroup;
      valid_[n] = e < packed_size(blocks);
      const int row = valid_[n] ? packed_row(e) : 0;
      row_[n] = 2 * row;
      column_[n] = valid_[n] ? 2 * (e - packed_at(row, 0)) : 0;
    }
  }

  // The coupling of a candidate, transposed; without it `stage` reads it from where it lies.
  __device__ void fetch_coupling(const Stored* coupling, int c) {
    for (int at = lane_; at < c * Shape::kCouplingRows; at += kGroup) {
      const int i = at % Shape::kCouplingRows;
      coupling_[at] = i < r_ ? static_cast<T>(coupling[i * c + at / Shape::kCouplingRows]) : T(0);
    }
  }

  __device__ void load(const double* a, const double* b) {
    each_entry([&](int n, int y, int x, int at) {
      a_[n][y][x] = at < 0 ? 0.0 : a[at];
      b_[n][y][x] = at < 0 ? 0.0 : b[at];
    });
  }

  __device__ void store(double* a, double* b) {
    each_entry([&](int n, int y, int x, int at) {
      if (at < 0 || column_[n] + x > row_[n] + y || !valid_[n]) return;
      a[at] = a_[n][y][x];
      b[at] = b_[n][y][x];
    });
  }

  // P and R of update t, one column below the other, P's before R's.
  __device__ void stage(const Products<Stored, T>& products, const UpdateColumns& columns, int t,
                        int64_t candidate, bool here) {
    const int rank = columns.rank[t], c_end = products.inner == nullptr ? 0 : products.c;
    const int64_t across = 2 * static_cast<int64_t>(columns.total);
    for (int q = lane_; q < 2 * rank; q += kGroup) {
      const bool of_w = q >= rank;
      const int from = columns.first[t] + (of_w ? q - rank + columns.total : q);
      T sums[kRows];
      const T* middle = products.middle + candidate * r_ * across + from;
      const int r_middle = products.middle == nullptr ? 0 : r_;
#pragma unroll
      for (int i = 0; i < kRows; ++i, middle += across) sums[i] = i < r_middle ? *middle : T(0);
      const T* inner = products.inner + candidate * products.c * across + from;
      const Stored* coupling = products.coupling + candidate * r_ * products.c;
      for (int first = 0; first < c_end; first += kAtOnce, inner += kAtOnce * across) {
        T values[kAtOnce];  // all asked for before the first is waited for
#pragma unroll
        for (int c = 0; c < kAtOnce; ++c) {
          values[c] = first + c < c_end ? inner[c * across] : T(0);
        }
#pragma unroll
        for (int c = 0; c < kAtOnce; ++c) {
          if (first + c < c_end)
            add_product(sums, values[c], coupling, first + c, products.c, here);
        }
      }
      double* to = staged_ + (2 * (of_w ? q - rank : q) + of_w) * kRows;
#pragma unroll
      for (int i = 0; i < kRows; ++i) to[i] = static_cast<double>(sums[i]);
    }
    __syncwarp();
  }

  // A -= P P^T and B -= P R^T + R P^T.
  __device__ void subtract(int rank) {
    for (int q = 0; q < rank; ++q) {
      const double* p = staged_ + 2 * q * kRows;
      const double* r = p + kRows;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const Pair p_i = two_at(p + row_[n]), p_k = two_at(p + column_[n]);
        const Pair r_i = two_at(r + row_[n]), r_k = two_at(r + column_[n]);
#pragma unroll
        for (int y = 0; y < 2; ++y) {
#pragma unroll
          for (int x = 0; x < 2; ++x) {
            a_[n][y][x] -= p_i.values[y] * p_k.values[x];
            b_[n][y][x] -= p_i.values[y] * r_k.values[x];
            b_[n][y][x] -= p_k.values[x] * r_i.values[y];
          }
        }
      }
    }
  }

  // tr(A^-1 B), as trace_by_elimination takes it.
  __device__ double trace() {
    Tile a[kTiles], b[kTiles];
    each_entry([&](int n, int y, int x, int) {
      a[n][y][x] = a_[n][y][x];
      b[n][y][x] = b_[n][y][x];
    });
    double sum = 0.0;
    for (int pair = 0; pair < r_; pair += 2) {
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        const int j = pair + x;
        if (j >= r_) break;
        // Two columns take turns, so that no lane overwrites what another still reads.
        double* of_a = columns_ + 2 * x * kRows;
        double* of_b = of_a + kRows;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          if (column_[n] != pair || !valid_[n]) continue;
          *reinterpret_cast<Pair*>(of_a + row_[n]) = {a[n][0][x], a[n][1][x]};
          *reinterpret_cast<Pair*>(of_b + row_[n]) = {b[n][0][x], b[n][1][x]};
        }
        __syncwarp();
        const double reciprocal = reciprocal_of_pivot(of_a[j]), b_jj = of_b[j];
        sum += b_jj * reciprocal;
        // Entries of rows and columns up to j come to nothing of meaning, and are not read again.
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          const Pair a_i = two_at(of_a + row_[n]), a_k = two_at(of_a + column_[n]);
          const Pair b_i = two_at(of_b + row_[n]), b_k = two_at(of_b + column_[n]);
#pragma unroll
          for (int y = 0; y < 2; ++y) {
            const double l_i = a_i.values[y] * reciprocal, rest = b_i.values[y] - l_i * b_jj;
#pragma unroll
            for (int z = 0; z < 2; ++z) {
              a[n][y][z] -= l_i * a_k.values[z];
              b[n][y][z] -= l_i * b_k.values[z];
              b[n][y][z] -= a_k.values[z] * reciprocal * rest;
            }
          }
        }
      }
    }
    return sum;
  }

 private:
  using Tile = double[2][2];

  static constexpr int kAtOnce = 5;

  // sums += column c of the coupling times value; `here`: in shared memory.
  __device__ void add_product(T (&sums)[kRows], T value, const Stored* coupling, int c, int c_all,
                              bool here) const {
    if (here) {
      const Bundle<T>* column =
          reinterpret_cast<const Bundle<T>*>(coupling_ + c * Shape::kCouplingRows);
#pragma unroll
      for (int at = 0; at < kRows; at += kOfBundle) {
        const Bundle<T> bundle = column[at / kOfBundle];
#pragma unroll
        for (int i = at; i < at + kOfBundle && i < kRows; ++i) {
          sums[i] += bundle.values[i - at] * value;
        }
      }
    } else {
      const Stored* entry = coupling + c;
#pragma unroll
      for (int i = 0; i < kRows; ++i, entry += c_all) {
        if (i < r_) sums[i] += static_cast<T>(*entry) * value;
      }
    }
  }

  using Pair = Bundle<double>;
  static constexpr int kOfBundle = 16 / static_cast<int>(sizeof(T));

  static __device__ Pair two_at(const double* from) { return *reinterpret_cast<const Pair*>(from); }

  // body(tile, its row, its column, place of the entry in a packed triangle; -1 beyond the matrix).
  template <typename Body>
  __device__ void each_entry(const Body& body) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int y = 0; y < 2; ++y) {
#pragma unroll
        for (int x = 0; x < 2; ++x) {
          const int one = row_[n] + y, other = column_[n] + x;
          const int i = one > other ? one : other, j = one > other ? other : one;
          body(n, y, x, i < r_ ? packed_at(i, j) : -1);
        }
      }
    }
  }

  int lane_, r_;
  double* staged_;   // (max_rank, 2, kRows)
  double* columns_;  // (2, 2, kRows)
  T* coupling_;      // (c, kCouplingRows)
  int row_[kTiles], column_[kTiles];
  bool valid_[kTiles];
  Tile a_[kTiles], b_[kTiles];
};

}  // namespace fishermask
