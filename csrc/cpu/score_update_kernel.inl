// A tile holds as many candidates as two vectors have lanes, one candidate a lane: V's tile is
// turned once to (.., lane), after which the products broadcast entries of U and W, and the r x r
// work runs on all lanes at once. Each lane's arithmetic is its own, in an order that neither the
// tile, the threads nor the number of updates changes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "score_update_kernel.h"
#include "simd_begin.h"

// What follows is compiled anew for each instruction set.
#include "common/small_matrix.h"
#include "tile_products.h"

// A tile's worth of doubles.
template <int N>
struct Bundle {
  Vector<double> v[N];

  Bundle() = default;
  __attribute__((always_inline)) explicit Bundle(double value) {
    for (int i = 0; i < N; ++i) v[i] = broadcast(value);
  }
};

template <int N>
FISHERMASK_INLINE Bundle<N> operator+(Bundle<N> a, const Bundle<N>& b) {
  for (int i = 0; i < N; ++i) a.v[i] += b.v[i];
  return a;
}

template <int N>
FISHERMASK_INLINE Bundle<N> operator*(Bundle<N> a, const Bundle<N>& b) {
  for (int i = 0; i < N; ++i) a.v[i] *= b.v[i];
  return a;
}

template <int N>
FISHERMASK_INLINE Bundle<N> add_product(Bundle<N> c, const Bundle<N>& a, const Bundle<N>& b) {
  for (int i = 0; i < N; ++i) c.v[i] = multiply_add(a.v[i], b.v[i], c.v[i]);
  return c;
}

template <int N>
FISHERMASK_INLINE Bundle<N> subtract_product(Bundle<N> c, const Bundle<N>& a, const Bundle<N>& b) {
  for (int i = 0; i < N; ++i) c.v[i] = multiply_add(-a.v[i], b.v[i], c.v[i]);
  return c;
}

template <int N>
FISHERMASK_INLINE Bundle<N> reciprocal_sqrt(Bundle<N> a) {
  double values[N * kLanes<double>];
  for (int i = 0; i < N; ++i) store(values + i * kLanes<double>, a.v[i]);
  for (double& value : values) value = 1.0 / std::sqrt(value);
  for (int i = 0; i < N; ++i) a.v[i] = load(values + i * kLanes<double>);
  return a;
}

// The same for any number of columns, in as few and as equal groups as registers allow, and in
// stretches whose operands stay in the first-level cache from one group to the next.
template <typename T>
static void product(const T* left, const T* right, int length, int columns, bool add, T* out) {
  const int fits = kCacheBytes / (static_cast<int>(sizeof(T)) * (kTile<T> + columns));
  const int stretch = std::max(fits, 16);
  if (length == 0 && !add) std::fill_n(out, static_cast<int64_t>(columns) * kTile<T>, T(0));
  for (int start = 0; start < length; start += stretch) {
    const int here = std::min(stretch, length - start);
    const T* left_here = left + static_cast<int64_t>(start) * kTile<T>;
    const T* right_here = right + static_cast<int64_t>(start) * columns;
    int groups = (columns + kColumns - 1) / kColumns;
    for (int q = 0; q < columns; --groups) {
      const int width = (columns - q + groups - 1) / groups;
      product_of_width<T, kColumns>(width, left_here, right_here + q, here, columns,
                                    add || start > 0, out + q * kTile<T>);
      q += width;
    }
  }
}

// One thread's working memory, and the work on one tile.
template <typename Stored, typename T>
class Tile {
 public:
  static constexpr int lanes = kTile<T>;
  static constexpr int bundle_size = lanes / kLanes<double>;
  using Doubles = Bundle<bundle_size>;

  Tile(const Candidates<Stored>& candidates, int64_t columns)
      : v_(candidates), entries_(packed_size(candidates.r)) {
    const int64_t r = v_.r;
    middle_ = allocate<T>(r * v_.m * lanes);
    coupling_ = allocate<T>(r * v_.c * lanes);
    hidden_ = allocate<T>(static_cast<int64_t>(v_.d) * lanes);
    if (v_.inputs != nullptr) masked_ = allocate<T>(v_.starts[v_.c] * lanes);
    inner_ = allocate<T>(v_.c * columns * lanes);
    products_ = allocate<T>(r * columns * lanes);
    a_ = allocate<double>(static_cast<int64_t>(entries_) * lanes);
    b_ = allocate<double>(static_cast<int64_t>(entries_) * lanes);
    work_ = allocate<Doubles>(2 * static_cast<int64_t>(entries_));
  }

  // Loads candidates index[0..count); missing lanes repeat the last one.
  void load_tile(const int64_t* index, int count, const ScoreState& state, bool with_factors) {
    for (int lane = 0; lane < lanes; ++lane) at_[lane] = index[std::min(lane, count - 1)];
    count_ = count;
    turn(state.a, at_, entries_, a_.get());
    turn(state.b, at_, entries_, b_.get());
    for (int lane = 0; lane < lanes; ++lane) scores_[lane] = state.scores[at_[lane]];
    if (!with_factors) return;
    turn(v_.middle, at_, static_cast<int64_t>(v_.r) * v_.m, middle_.get());
    if (v_.coupling == nullptr) return;
    turn(v_.coupling, at_, static_cast<int64_t>(v_.r) * v_.c, coupling_.get());
    turn(v_.hidden, at_, v_.d, hidden_.get());
    if (v_.inputs == nullptr) return;
    for (int64_t e = 0; e < v_.starts[v_.c]; ++e) {
      std::copy_n(hidden_.get() + static_cast<int64_t>(v_.inputs[e]) * lanes, lanes,
                  masked_.get() + e * lanes);
    }
  }

  void store_tile(const ScoreState& state) const {
    for (int lane = 0; lane < count_; ++lane) {
      const int64_t to = at_[lane] * entries_;
      for (int e = 0; e < entries_; ++e) {
        state.a[to + e] = a_[e * lanes + lane];
        state.b[to + e] = b_[e * lanes + lane];
      }
      state.scores[at_[lane]] = scores_[lane];
    }
  }

  void compare(int update, double threshold, Beaten& beaten) const {
    for (int lane = 0; lane < count_; ++lane) {
      const double score = scores_[lane];
      const int64_t index = at_[lane];
      if (score > beaten.best[update] ||
          (score == beaten.best[update] && index < beaten.best_index[update])) {
        beaten.best[update] = score;
        beaten.best_index[update] = index;
      }
      if (score >= threshold) {
        beaten.first_index[update] = std::min(beaten.first_index[update], index);
      }
    }
  }

  // products[i] = row i of V_x [U W] for all U and W of a group.
  void multiply(const UpdateGroup<T>& group) {
    const int columns = group.columns;
    if (v_.coupling != nullptr) {
      for (int c = 0; c < v_.c; ++c) {
        const int64_t start = v_.starts[c];
        const T* inputs = v_.inputs == nullptr ? hidden_.get() : masked_.get() + start * lanes;
        product(inputs, group.head + start * columns, static_cast<int>(v_.starts[c + 1] - start),
                columns, false, inner_.get() + static_cast<int64_t>(c) * columns * lanes);
      }
      for (int i = 0; i < v_.r; i += 2) couple(i, columns);
    }
    for (int i = 0; i < v_.r; ++i) {
      product(middle_.get() + static_cast<int64_t>(i) * v_.m * lanes, group.middle, v_.m, columns,
              v_.coupling != nullptr, row_of_products(i, columns));
    }
  }

  // A -= P P^T, B -= P R^T + R P^T, two rows by two columns at a time; [P R] stands `offset`
  // columns into the products, of which there are `columns`.
  void update(int rank, int offset, int columns) {
    for (int i = 0; i < v_.r; i += 2) {
      const int last_row = std::min(i + 1, v_.r - 1);
      const T* left[2] = {row_of_products(i, columns) + offset * lanes,
                          row_of_products(last_row, columns) + offset * lanes};
      for (int j = 0; j <= i; j += 2) {
        const int last_column = std::min(j + 1, v_.r - 1);
        const T* right[2] = {row_of_products(j, columns) + offset * lanes,
                             row_of_products(last_column, columns) + offset * lanes};
        for (int half = 0; half < 2; ++half) {
          const int lane = half * kLanes<T>;
          Vector<T> a[2][2], b[2][2];
          symmetric_products(left, right, rank, lane, a, b);
          for (int di = 0; di <= last_row - i; ++di) {
            for (int dj = 0; dj <= last_column - j && j + dj <= i + di; ++dj) {
              const int64_t at = static_cast<int64_t>(packed_at(i + di, j + dj)) * lanes + lane;
              subtract(a[di][dj], a_.get() + at);
              subtract(b[di][dj], b_.get() + at);
            }
          }
        }
      }
    }
  }

  void score() {
    const double* a = a_.get();
    const double* b = b_.get();
    const auto entry = [](const double* from) {
      return [from](int e) __attribute__((always_inline)) {
        Doubles value;
        for (int i = 0; i < bundle_size; ++i) {
          value.v[i] = load(from + e * lanes + i * kLanes<double>);
        }
        return value;
      };
    };
    const Doubles trace = trace_of_solve<Doubles>(v_.r, entry(a), entry(b), work_.get());
    for (int i = 0; i < bundle_size; ++i) store(scores_ + i * kLanes<double>, trace.v[i]);
  }

 private:
  T* row_of_products(int i, int columns) {
    return products_.get() + static_cast<int64_t>(i) * columns * lanes;
  }

  // a = P P^T and b = P R^T + R P^T for two rows and two columns, one vector of lanes.
  FISHERMASK_INLINE void symmetric_products(const T* const (&left)[2], const T* const (&right)[2],
                                            int rank, int lane, Vector<T> (&a)[2][2],
                                            Vector<T> (&b)[2][2]) {
    for (int di = 0; di < 2; ++di) {
      for (int dj = 0; dj < 2; ++dj) a[di][dj] = b[di][dj] = broadcast(T(0));
    }
    for (int q = 0; q < rank; ++q) {
      const int p = q * lanes + lane, r = p + rank * lanes;
      const Vector<T> pj[2] = {load(right[0] + p), load(right[1] + p)};
      const Vector<T> rj[2] = {load(right[0] + r), load(right[1] + r)};
      for (int di = 0; di < 2; ++di) {
        const Vector<T> pi = load(left[di] + p), ri = load(left[di] + r);
        for (int dj = 0; dj < 2; ++dj) {
          a[di][dj] = multiply_add(pi, pj[dj], a[di][dj]);
          b[di][dj] = multiply_add(pi, rj[dj], b[di][dj]);
          b[di][dj] = multiply_add(ri, pj[dj], b[di][dj]);
        }
      }
    }
  }

  // products[i][q] = sum over c of coupling[i][c] inner[c][q], two rows by two columns at a time.
  void couple(int i, int columns) {
    const int last = std::min(i + 1, v_.r - 1);
    const T* coupling[2] = {coupling_.get() + static_cast<int64_t>(i) * v_.c * lanes,
                            coupling_.get() + static_cast<int64_t>(last) * v_.c * lanes};
    for (int q = 0; q < columns; q += 2) {
      Vector<T> sum[2][2][2] = {};
      for (int c = 0; c < v_.c; ++c) {
        const T* inner = inner_.get() + (static_cast<int64_t>(c) * columns + q) * lanes;
        for (int half = 0; half < 2; ++half) {
          const int lane = half * kLanes<T>;
          const Vector<T> right[2] = {load(inner + lane), load(inner + lanes + lane)};
          for (int di = 0; di < 2; ++di) {
            const Vector<T> left = load(coupling[di] + c * lanes + lane);
            for (int dq = 0; dq < 2; ++dq) {
              sum[di][dq][half] = multiply_add(left, right[dq], sum[di][dq][half]);
            }
          }
        }
      }
      for (int di = 0; di <= last - i; ++di) {
        T* out = row_of_products(i + di, columns) + q * lanes;
        for (int dq = 0; dq < 2; ++dq) {
          for (int half = 0; half < 2; ++half) {
            store(out + dq * lanes + half * kLanes<T>, sum[di][dq][half]);
          }
        }
      }
    }
  }

  FISHERMASK_INLINE void subtract(Vector<T> sum, double* from) {
    constexpr int n = kLanes<T>;
    T values[n];
    store(values, sum);
    for (int lane = 0; lane < n; ++lane) from[lane] -= static_cast<double>(values[lane]);
  }

  const Candidates<Stored>& v_;
  const int entries_;
  int count_ = 0;
  int64_t at_[lanes];
  double scores_[lanes];
  Memory<T> middle_, coupling_, hidden_, masked_, inner_, products_;
  Memory<double> a_, b_;
  Memory<Doubles> work_;
};

template <typename Stored, typename T>
static void run(const Candidates<Stored>& candidates, const Updates<T>& updates,
                const int64_t* index, int64_t n, const ScoreState& state, Beaten& beaten) {
  Tile<Stored, T> tile(candidates, updates.most_columns);
  const int count = static_cast<int>(updates.ranks.size());
  for (int64_t start = 0; start < n; start += kTile<T>) {
    const int in_tile = static_cast<int>(std::min<int64_t>(kTile<T>, n - start));
    tile.load_tile(index + start, in_tile, state, count > 0);
    for (const UpdateGroup<T>& group : updates.groups) {
      tile.multiply(group);
      int offset = 0;
      for (int t = group.begin; t < group.end; ++t) {
        tile.compare(t, updates.thresholds[t], beaten);
        tile.update(updates.ranks[t], offset, group.columns);
        tile.score();
        offset += 2 * updates.ranks[t];
      }
    }
    if (count == 0) tile.score();
    tile.store_tile(state);
  }
}

void score_update(const Candidates<float>& candidates, const Updates<float>& updates,
                  const int64_t* index, int64_t n, const ScoreState& state, Beaten& beaten) {
  run(candidates, updates, index, n, state, beaten);
}

void score_update(const Candidates<float>& candidates, const Updates<double>& updates,
                  const int64_t* index, int64_t n, const ScoreState& state, Beaten& beaten) {
  run(candidates, updates, index, n, state, beaten);
}

void score_update(const Candidates<double>& candidates, const Updates<double>& updates,
                  const int64_t* index, int64_t n, const ScoreState& state, Beaten& beaten) {
  run(candidates, updates, index, n, state, beaten);
}

#include "simd_end.h"
