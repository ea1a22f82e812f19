// The triangle is read once, four rows at a time, for both of an entry's places in the square. A
// row of the head's takes part in V_x S through one number, its entry of h: the products with h are
// gathered class by class, and `coupling` is applied to their sums at the end.
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "inverse_products_kernel.h"
#include "simd_begin.h"

// Rows of V whose sums, factors and operands registers hold beside four rows of the triangle.
constexpr int kTogether = kVectorBytes == 64 ? 3 : 1;

constexpr int64_t kColumnTile = 512;  // four rows of this many columns stay in the nearest cache

// Asks for the next rows' numbers at these columns: rows are too short and too far apart for the
// processor to foresee, and the triangle seldom stays in a cache between two calls.
template <int Rows>
FISHERMASK_INLINE void prefetch_next(const double* s, int64_t stride, int64_t columns) {
  constexpr int64_t line = 64 / sizeof(double);
  for (int t = Rows; t < 2 * Rows; ++t) {
    for (int64_t j = 0; j < columns; j += line) __builtin_prefetch(s + t * stride + j);
  }
}

// For Count x and y, `step` numbers apart: dots[t] += sum of S_tj x_j (if `Dot`), dots of the next
// x as far apart, and y_j += sum over t of factors[t] S_tj.
template <int Rows, bool Dot, int Count = 1, bool Prefetch = false>
FISHERMASK_INLINE void sweep(const double* s, int64_t stride, int64_t columns, const double* x,
                             double* dots, const double* factors, double* y, int64_t step_x = 0,
                             int64_t step_y = 0) {
  constexpr int lanes = kLanes<double>;
  Vector<double> sums[Count][Rows], by[Count][Rows];
  for (int q = 0; q < Count; ++q) {
    for (int t = 0; t < Rows; ++t) {
      sums[q][t] = broadcast(0.0);
      by[q][t] = broadcast(factors[q * step_x + t]);
    }
  }
  int64_t j = 0;
  for (; j + lanes <= columns; j += lanes) {
    Vector<double> to[Count], from[Count];
    for (int q = 0; q < Count; ++q) {
      to[q] = load(y + q * step_y + j);
      if constexpr (Dot) from[q] = load(x + q * step_x + j);
    }
    for (int t = 0; t < Rows; ++t) {
      if constexpr (Prefetch) __builtin_prefetch(s + (Rows + t) * stride + j);
      const Vector<double> entry = load(s + t * stride + j);
      for (int q = 0; q < Count; ++q) {
        if constexpr (Dot) sums[q][t] = multiply_add(entry, from[q], sums[q][t]);
        to[q] = multiply_add(entry, by[q][t], to[q]);
      }
    }
    for (int q = 0; q < Count; ++q) store(y + q * step_y + j, to[q]);
  }
  for (int q = 0; q < Count; ++q) {
    if constexpr (Dot) {
      for (int t = 0; t < Rows; ++t) dots[q * step_y + t] += sum_lanes<double>(sums[q][t]);
    }
    for (int64_t rest = j; rest < columns; ++rest) {
      for (int t = 0; t < Rows; ++t) {
        const double entry = s[t * stride + rest];
        if constexpr (Dot) dots[q * step_y + t] += entry * x[q * step_x + rest];
        y[q * step_y + rest] += entry * factors[q * step_x + t];
      }
    }
  }
}

// dots[x][t] = sum over j of S_tj x_j for several x, `length` numbers apart.
template <int Rows, int Count>
FISHERMASK_INLINE void dot_products(const double* s, int64_t stride, const double* x,
                                    int64_t length, double (&dots)[Count][Rows]) {
  constexpr int lanes = kLanes<double>;
  Vector<double> sums[Count][Rows] = {};
  int64_t j = 0;
  for (; j + lanes <= length; j += lanes) {
    Vector<double> from[Count];
    for (int q = 0; q < Count; ++q) from[q] = load(x + q * length + j);
    for (int t = 0; t < Rows; ++t) {
      const Vector<double> entry = load(s + t * stride + j);
      for (int q = 0; q < Count; ++q) sums[q][t] = multiply_add(entry, from[q], sums[q][t]);
    }
  }
  for (int q = 0; q < Count; ++q) {
    for (int t = 0; t < Rows; ++t) {
      dots[q][t] = sum_lanes<double>(sums[q][t]);
      for (int64_t rest = j; rest < length; ++rest) {
        dots[q][t] += s[t * stride + rest] * x[q * length + rest];
      }
    }
  }
}

// The same for `Count` rows of V's middle, added to their columns i to i + Rows of `out`.
template <int Rows, int Count>
FISHERMASK_INLINE void add_middle(const SampleRows& v, const double* s, int64_t stride, int64_t row,
                                  double* out) {
  double dots[Count][Rows];
  dot_products<Rows, Count>(s, stride, v.middle + row * v.m, v.m, dots);
  for (int q = 0; q < Count; ++q) {
    for (int t = 0; t < Rows; ++t) out[(row + q) * v.k + t] += dots[q][t];
  }
}

// Rows i to i + Rows of the triangle, none of them the head's.
template <int Rows>
FISHERMASK_INLINE void middle_rows(const SampleRows& v, const double* s, int64_t stride, int64_t i,
                                   double* out) {
  for (int64_t start = 0; start < i; start += kColumnTile) {
    const int64_t columns = std::min(kColumnTile, i - start);
    prefetch_next<Rows>(s + start, stride, columns);
    const auto rows = [&](auto count, int64_t row) __attribute__((always_inline)) {
      const double* x = v.middle + row * v.m;
      double* y = out + row * v.k;
      sweep<Rows, true, decltype(count)::value>(s + start, stride, columns, x + start, y + i, x + i,
                                                y + start, v.m, v.k);
    };
    int64_t row = 0;
    for (; row + kTogether <= v.r; row += kTogether)
      rows(std::integral_constant<int, kTogether>{}, row);
    for (; row < v.r; ++row) rows(std::integral_constant<int, 1>{}, row);
  }
  for (int64_t row = 0; row < v.r; ++row) {
    const double* x = v.middle + row * v.m + i;
    double* y = out + row * v.k + i;
    for (int t = 0; t < Rows; ++t) {
      for (int u = 0; u < t; ++u) {
        y[t] += s[t * stride + i + u] * x[u];
        y[u] += s[t * stride + i + u] * x[t];
      }
      y[t] += s[t * stride + i + t] * x[t];
    }
  }
}

// Rows i to i + Rows of the triangle, all of them of class `own`, whose products are added to y.
template <int Rows>
FISHERMASK_INLINE void head_rows(const SampleRows& v, const double* s, int64_t stride, int64_t i,
                                 int64_t own, double* classes, double* out) {
  double* y = classes + own * v.k;
  const double* h = v.hidden - v.m;  // by column of V
  prefetch_next<Rows>(s, stride, v.m);
  int64_t row = 0;
  for (; row + 3 <= v.r; row += 3) add_middle<Rows, 3>(v, s, stride, row, out + i);
  for (; row < v.r; ++row) add_middle<Rows, 1>(v, s, stride, row, out + i);
  sweep<Rows, false>(s, stride, v.m, nullptr, nullptr, h + i, y);
  for (int64_t c = 0; c <= own; ++c) {
    double dots[Rows] = {};
    const int64_t start = v.starts[c], stop = std::min(v.starts[c + 1], i);
    sweep<Rows, true, 1, true>(s + start, stride, stop - start, h + start, dots, h + i, y + start);
    if (c == own) {
      for (int t = 0; t < Rows; ++t) {
        for (int u = 0; u < t; ++u) {
          dots[t] += s[t * stride + i + u] * h[i + u];
          y[i + u] += s[t * stride + i + u] * h[i + t];
        }
        dots[t] += s[t * stride + i + t] * h[i + t];
      }
    }
    for (int t = 0; t < Rows; ++t) classes[c * v.k + i + t] += dots[t];
  }
}

void symmetric_products(const SampleRows& v, const double* matrix, int64_t stride, int64_t begin,
                        int64_t end, double* classes, double* out) {
  int64_t i = begin;
  for (const int64_t stop = std::min(end, v.m); i < stop;) {
    const double* s = matrix + i * stride;
    if (i + 4 <= stop) {
      middle_rows<4>(v, s, stride, i, out);
      i += 4;
    } else {
      middle_rows<1>(v, s, stride, i++, out);
    }
  }
  for (int64_t c = 0; c < v.c; ++c) {
    const int64_t stop = std::min(end, v.starts[c + 1]);
    while (i < stop) {
      const double* s = matrix + i * stride;
      if (i + 4 <= stop) {
        head_rows<4>(v, s, stride, i, c, classes, out);
        i += 4;
      } else {
        head_rows<1>(v, s, stride, i++, c, classes, out);
      }
    }
  }
}

// Rows row to row + Number of out + coupling classes, at Width vectors of columns.
template <int Number, int Width>
FISHERMASK_INLINE void couple_tile(const SampleRows& v, const double* sums, int64_t row,
                                   int64_t column, double* result) {
  constexpr int lanes = kLanes<double>;
  Vector<double> to[Number][Width];
  for (int q = 0; q < Number; ++q) {
    for (int at = 0; at < Width; ++at) {
      to[q][at] = load(sums + (v.c + row + q) * v.k + column + at * lanes);
    }
  }
  for (int64_t c = 0; c < v.c; ++c) {
    for (int at = 0; at < Width; ++at) {
      const Vector<double> from = load(sums + c * v.k + column + at * lanes);
      for (int q = 0; q < Number; ++q) {
        const Vector<double> factor = broadcast(v.coupling[(row + q) * v.c + c]);
        to[q][at] = multiply_add(factor, from, to[q][at]);
      }
    }
  }
  for (int q = 0; q < Number; ++q) {
    for (int at = 0; at < Width; ++at) {
      store(result + (row + q) * v.k + column + at * lanes, to[q][at]);
    }
  }
}

void gather_products(const SampleRows& v, double* sums, int64_t parts, int64_t begin, int64_t end,
                     double* result) {
  constexpr int lanes = kLanes<double>;
  const int64_t size = (v.c + v.r) * v.k;
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t row = 0; row < v.c + v.r; ++row) {
      double* to = sums + row * v.k;
      for (int64_t j = begin; j < end; ++j) to[j] += to[part * size + j];
    }
  }
  int64_t j = begin;
  for (; j + 2 * lanes <= end; j += 2 * lanes) {
    int64_t row = 0;
    for (; row + 3 <= v.r; row += 3) couple_tile<3, 2>(v, sums, row, j, result);
    for (; row < v.r; ++row) couple_tile<1, 2>(v, sums, row, j, result);
  }
  for (; j < end; ++j) {
    for (int64_t row = 0; row < v.r; ++row) {
      double total = sums[(v.c + row) * v.k + j];
      for (int64_t c = 0; c < v.c; ++c) total += v.coupling[row * v.c + c] * sums[c * v.k + j];
      result[row * v.k + j] = total;
    }
  }
}

template <int Rows, int Count>
FISHERMASK_INLINE void outer_tile(const double* v, const double* other, int64_t k, int64_t h,
                                  double* out) {
  double dots[Count][Rows];
  dot_products<Rows, Count>(other, k, v, k, dots);
  for (int q = 0; q < Count; ++q) {
    for (int t = 0; t < Rows; ++t) out[q * h + t] = dots[q][t];
  }
}

void outer_products(const double* v, const double* other, int64_t r, int64_t k, int64_t h,
                    int64_t begin, int64_t end, double* out) {
  for (int64_t at = begin; at < end;) {
    const bool four = at + 4 <= end;
    for (int64_t row = 0; row < r;) {
      const bool three = row + 3 <= r;
      const double* x = v + row * k;
      const double* s = other + at * k;
      double* to = out + row * h + at;
      if (four && three) {
        outer_tile<4, 3>(x, s, k, h, to);
      } else if (four) {
        outer_tile<4, 1>(x, s, k, h, to);
      } else if (three) {
        outer_tile<1, 3>(x, s, k, h, to);
      } else {
        outer_tile<1, 1>(x, s, k, h, to);
      }
      row += three ? 3 : 1;
    }
    at += four ? 4 : 1;
  }
}

// Count rows of Y and Z at Width vectors of columns.
template <int Count, int Width>
FISHERMASK_INLINE void add_updates_tile(const double* p, const double* q, const double* u,
                                        const double* w, int64_t h, int64_t k, double* y,
                                        double* z) {
  constexpr int lanes = kLanes<double>;
  Vector<double> to_y[Count][Width], to_z[Count][Width];
  for (int row = 0; row < Count; ++row) {
    for (int at = 0; at < Width; ++at) {
      to_y[row][at] = load(y + row * k + at * lanes);
      to_z[row][at] = load(z + row * k + at * lanes);
    }
  }
  for (int64_t e = 0; e < h; ++e) {
    for (int at = 0; at < Width; ++at) {
      const Vector<double> from_u = load(u + e * k + at * lanes);
      const Vector<double> from_w = load(w + e * k + at * lanes);
      for (int row = 0; row < Count; ++row) {
        const Vector<double> by_u = broadcast(p[row * h + e]);
        to_y[row][at] = multiply_add(by_u, from_u, to_y[row][at]);
        to_z[row][at] = multiply_add(by_u, from_w, to_z[row][at]);
        to_z[row][at] = multiply_add(broadcast(q[row * h + e]), from_u, to_z[row][at]);
      }
    }
  }
  for (int row = 0; row < Count; ++row) {
    for (int at = 0; at < Width; ++at) {
      store(y + row * k + at * lanes, to_y[row][at]);
      store(z + row * k + at * lanes, to_z[row][at]);
    }
  }
}

template <int Count>
FISHERMASK_INLINE void add_updates_rows(const double* p, const double* q, const double* u,
                                        const double* w, int64_t h, int64_t k, int64_t begin,
                                        int64_t end, double* y, double* z) {
  constexpr int lanes = kLanes<double>;
  int64_t j = begin;
  for (; j + 2 * lanes <= end; j += 2 * lanes) {
    add_updates_tile<Count, 2>(p, q, u + j, w + j, h, k, y + j, z + j);
  }
  for (; j < end; ++j) {
    for (int row = 0; row < Count; ++row) {
      double to_y = y[row * k + j], to_z = z[row * k + j];
      for (int64_t e = 0; e < h; ++e) {
        to_y += p[row * h + e] * u[e * k + j];
        to_z += p[row * h + e] * w[e * k + j];
        to_z += q[row * h + e] * u[e * k + j];
      }
      y[row * k + j] = to_y;
      z[row * k + j] = to_z;
    }
  }
}

void add_updates(const double* p, const double* q, const double* u, const double* w, int64_t r,
                 int64_t h, int64_t k, int64_t begin, int64_t end, double* y, double* z) {
  constexpr int64_t tile = 64;  // columns of U and W that stay in the nearest caches
  for (int64_t start = begin; start < end; start += tile) {
    const int64_t stop = std::min(start + tile, end);
    int64_t row = 0;
    for (; row + 3 <= r; row += 3) {
      add_updates_rows<3>(p + row * h, q + row * h, u, w, h, k, start, stop, y + row * k,
                          z + row * k);
    }
    for (; row < r; ++row) {
      add_updates_rows<1>(p + row * h, q + row * h, u, w, h, k, start, stop, y + row * k,
                          z + row * k);
    }
  }
}

#include "simd_end.h"
