// A tile holds as many candidates as two vectors have lanes, one candidate a lane: V's tile is
// turned once to (.., lane), after which the products broadcast entries of U and W, and the r x r
// work runs on all lanes at once. Each lane's arithmetic is its own, in an order that neither the
// tile, the threads nor the number of updates changes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>

#include "score_update_kernel.h"
#include "simd_begin.h"
#include "small_matrix.h"

// A tile's lanes: two vectors of the type that products are computed in.
template <typename T>
constexpr int kTile = 2 * kLanes<T>;

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
  for (int i = 0; i < N; ++i) {
    for (int lane = 0; lane < kLanes<double>; ++lane) a.v[i][lane] = 1.0 / std::sqrt(a.v[i][lane]);
  }
  return a;
}

// Columns of a product held in registers at a time: with two vectors a column, 12 of 16 registers
// are sums, or 24 of 32.
constexpr int kColumns = kVectorBytes == 64 ? 12 : 6;

// out[q][lane] (+)= sum over e of left[e][lane] * right[e][q] for Q columns.
template <typename T, int Q>
FISHERMASK_INLINE void product_columns(const T* left, const T* right, int length, int stride,
                                       bool add, T* out) {
  constexpr int lanes = kLanes<T>;
  Vector<T> sum[Q][2];
  for (int q = 0; q < Q; ++q) {
    for (int h = 0; h < 2; ++h) {
      sum[q][h] = add ? load(out + q * kTile<T> + h * lanes) : broadcast(T(0));
    }
  }
  for (int e = 0; e < length; ++e) {
    const Vector<T> low = load(left + e * kTile<T>);
    const Vector<T> high = load(left + e * kTile<T> + lanes);
    const T* row = right + static_cast<int64_t>(e) * stride;
    for (int q = 0; q < Q; ++q) {
      const Vector<T> factor = broadcast(row[q]);
      sum[q][0] = multiply_add(low, factor, sum[q][0]);
      sum[q][1] = multiply_add(high, factor, sum[q][1]);
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int h = 0; h < 2; ++h) store(out + q * kTile<T> + h * lanes, sum[q][h]);
  }
}

template <typename T, int Q>
FISHERMASK_INLINE void product_of_width(int width, const T* left, const T* right, int length,
                                        int stride, bool add, T* out) {
  if constexpr (Q > 0) {
    if (width == Q) {
      product_columns<T, Q>(left, right, length, stride, add, out);
    } else {
      product_of_width<T, Q - 1>(width, left, right, length, stride, add, out);
    }
  }
}

// The same for any number of columns, in as few and as equal groups as registers allow.
template <typename T>
static void product(const T* left, const T* right, int length, int columns, bool add, T* out) {
  int groups = (columns + kColumns - 1) / kColumns;
  for (int q = 0; q < columns; --groups) {
    const int width = (columns - q + groups - 1) / groups;
    product_of_width<T, kColumns>(width, left, right + q, length, columns, add, out + q * kTile<T>);
    q += width;
  }
}

// One thread's working memory, and the work on one tile.
template <typename Stored, typename T>
class Tile {
 public:
  static constexpr int lanes = kTile<T>;
  static constexpr int bundle_size = lanes / kLanes<double>;
  using Doubles = Bundle<bundle_size>;

  Tile(const Candidates<Stored>& candidates, int max_rank)
      : v_(candidates), entries_(packed_size(candidates.r)) {
    const int64_t r = v_.r, columns = 2 * static_cast<int64_t>(max_rank);
    middle_ = allocate<T>(r * v_.m * lanes);
    coupling_ = allocate<T>(r * v_.c * lanes);
    hidden_ = allocate<T>(static_cast<int64_t>(v_.d) * lanes);
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
    turn(state.a, entries_, a_.get());
    turn(state.b, entries_, b_.get());
    for (int lane = 0; lane < lanes; ++lane) scores_[lane] = state.scores[at_[lane]];
    if (!with_factors) return;
    turn(v_.middle, static_cast<int64_t>(v_.r) * v_.m, middle_.get());
    if (v_.coupling == nullptr) return;
    turn(v_.coupling, static_cast<int64_t>(v_.r) * v_.c, coupling_.get());
    turn(v_.hidden, v_.d, hidden_.get());
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

  // products[i] = row i of [P R] = V_x [U W].
  void multiply(const T* middle, const T* head, int rank) {
    const int columns = 2 * rank;
    if (v_.coupling != nullptr) {
      for (int c = 0; c < v_.c; ++c) {
        product(hidden_.get(), head + static_cast<int64_t>(c) * v_.d * columns, v_.d, columns,
                false, inner_.get() + static_cast<int64_t>(c) * columns * lanes);
      }
      for (int i = 0; i < v_.r; ++i) couple(i, columns);
    }
    for (int i = 0; i < v_.r; ++i) {
      product(middle_.get() + static_cast<int64_t>(i) * v_.m * lanes, middle, v_.m, columns,
              v_.coupling != nullptr, row_of_products(i, columns));
    }
  }

  // A -= P P^T, B -= P R^T + R P^T.
  void update(int rank) {
    const int columns = 2 * rank;
    for (int i = 0; i < v_.r; ++i) {
      const T* pi = row_of_products(i, columns);
      const T* ri = pi + rank * lanes;
      for (int j = 0; j <= i; ++j) {
        const T* pj = row_of_products(j, columns);
        const T* rj = pj + rank * lanes;
        Vector<T> a[2] = {broadcast(T(0)), broadcast(T(0))};
        Vector<T> b[2] = {broadcast(T(0)), broadcast(T(0))};
        for (int q = 0; q < rank; ++q) {
          for (int h = 0; h < 2; ++h) {
            const int at = q * lanes + h * kLanes<T>;
            const Vector<T> p = load(pi + at);
            a[h] = multiply_add(p, load(pj + at), a[h]);
            b[h] = multiply_add(p, load(rj + at), b[h]);
            b[h] = multiply_add(load(ri + at), load(pj + at), b[h]);
          }
        }
        subtract(a, a_.get() + packed_at(i, j) * lanes);
        subtract(b, b_.get() + packed_at(i, j) * lanes);
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
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
  };
  template <typename Value>
  using Memory = std::unique_ptr<Value[], Free>;

  template <typename Value>
  static Memory<Value> allocate(int64_t n) {
    void* memory = ::operator new(static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(Value),
                                  std::align_val_t{64});
    return Memory<Value>(static_cast<Value*>(memory));
  }

  // (lane, entry) to (entry, lane), in pieces whose target stays in the first-level cache.
  template <typename From, typename To>
  void turn(const From* from, int64_t size, To* to) const {
    constexpr int64_t piece = 64;
    for (int64_t start = 0; start < size; start += piece) {
      const int64_t stop = std::min(start + piece, size);
      for (int lane = 0; lane < lanes; ++lane) {
        const From* row = from + at_[lane] * size;
        for (int64_t e = start; e < stop; ++e) to[e * lanes + lane] = static_cast<To>(row[e]);
      }
    }
  }

  T* row_of_products(int i, int columns) {
    return products_.get() + static_cast<int64_t>(i) * columns * lanes;
  }

  // products[i][q] = sum over c of coupling[i][c] inner[c][q].
  void couple(int i, int columns) {
    const T* coupling = coupling_.get() + static_cast<int64_t>(i) * v_.c * lanes;
    T* out = row_of_products(i, columns);
    for (int q = 0; q < columns; ++q) {
      Vector<T> sum[2] = {broadcast(T(0)), broadcast(T(0))};
      for (int c = 0; c < v_.c; ++c) {
        const T* inner = inner_.get() + (static_cast<int64_t>(c) * columns + q) * lanes;
        for (int h = 0; h < 2; ++h) {
          sum[h] = multiply_add(load(coupling + c * lanes + h * kLanes<T>),
                                load(inner + h * kLanes<T>), sum[h]);
        }
      }
      for (int h = 0; h < 2; ++h) store(out + q * lanes + h * kLanes<T>, sum[h]);
    }
  }

  static void subtract(const Vector<T> (&sum)[2], double* from) {
    T values[lanes];
    for (int h = 0; h < 2; ++h) store(values + h * kLanes<T>, sum[h]);
    for (int lane = 0; lane < lanes; ++lane) from[lane] -= static_cast<double>(values[lane]);
  }

  const Candidates<Stored>& v_;
  const int entries_;
  int count_ = 0;
  int64_t at_[lanes];
  double scores_[lanes];
  Memory<T> middle_, coupling_, hidden_, inner_, products_;
  Memory<double> a_, b_;
  Memory<Doubles> work_;
};

template <typename Stored, typename T>
static void run(const Candidates<Stored>& candidates, const Updates<T>& updates,
                const int64_t* index, int64_t n, const ScoreState& state, Beaten& beaten) {
  Tile<Stored, T> tile(candidates, updates.max_rank);
  const int count = static_cast<int>(updates.ranks.size());
  for (int64_t start = 0; start < n; start += kTile<T>) {
    const int in_tile = static_cast<int>(std::min<int64_t>(kTile<T>, n - start));
    tile.load_tile(index + start, in_tile, state, count > 0);
    for (int t = 0; t < count; ++t) {
      tile.compare(t, updates.thresholds[t], beaten);
      tile.multiply(updates.middle[t], updates.head[t], updates.ranks[t]);
      tile.update(updates.ranks[t]);
      tile.score();
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
