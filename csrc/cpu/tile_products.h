// Products with one sample a lane: a tile of samples is turned once to (.., lane), after which a
// matrix is read number by number, each for all lanes at once.
//
// Included after simd_begin.h, once per unit.

// A tile's lanes: two vectors of the type that products are computed in.
template <typename T>
constexpr int kTile = 2 * kLanes<T>;

// Columns of a product held in registers at a time: with two vectors a column, 12 of 16 registers
// are sums, or 24 of 32.
constexpr int kColumns = kVectorBytes == 64 ? 12 : 6;

// Operands of a product that are read again and again, per first-level cache.
constexpr int kCacheBytes = 20 * 1024;

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

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};
template <typename Value>
using Memory = std::unique_ptr<Value[], FreeAligned>;

template <typename Value>
static Memory<Value> allocate(int64_t n) {
  void* memory = ::operator new(static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(Value),
                                std::align_val_t{64});
  return Memory<Value>(static_cast<Value*>(memory));
}

// kLanes<To> numbers, widened where they are stored as floats.
template <typename To, typename From>
FISHERMASK_INLINE Vector<To> load_as(const From* from) {
  if constexpr (sizeof(To) == sizeof(From)) {
    return load(from);
  } else {
    return load_widened(from);
  }
}

// (sample, entry) to (entry, lane), lane l holding sample at[l], by squares of a vector's lanes.
template <typename From, typename To, int64_t lanes>
static void turn(const From* from, const int64_t (&at)[lanes], int64_t size, To* to) {
  constexpr int side = kLanes<To>;
  int64_t start = 0;
  for (; start + side <= size; start += side) {
    for (int64_t lane = 0; lane < lanes; lane += side) {
      Vector<To> square[side];
      for (int row = 0; row < side; ++row) {
        square[row] = load_as<To>(from + at[lane + row] * size + start);
      }
      transpose<To>(square);
      for (int e = 0; e < side; ++e) store(to + (start + e) * lanes + lane, square[e]);
    }
  }
  for (; start < size; ++start) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      to[start * lanes + lane] = static_cast<To>(from[at[lane] * size + start]);
    }
  }
}
