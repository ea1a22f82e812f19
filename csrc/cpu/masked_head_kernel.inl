// Register tiles of four entries by three (gram) and four entries by two vectors of samples
// (forms).
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "masked_head_kernel.h"
#include "simd_begin.h"

using Doubles = Vector<double>;
constexpr int64_t kDoubles = kLanes<double>;

template <int Rows, int Columns>
FISHERMASK_INLINE void add_dots(const double* left, const double* right, int64_t n, int64_t stride,
                                double* out) {
  Doubles sum[Rows][Columns] = {};
  for (int64_t s = 0; s < n; s += kDoubles) {
    Doubles row[Rows];
    for (int i = 0; i < Rows; ++i) row[i] = load(left + i * n + s);
    for (int j = 0; j < Columns; ++j) {
      const Doubles column = load(right + j * n + s);
      for (int i = 0; i < Rows; ++i) sum[i][j] = multiply_add(row[i], column, sum[i][j]);
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Columns; ++j) out[i * stride + j] += sum_lanes<double>(sum[i][j]);
  }
}

template <int Rows>
FISHERMASK_INLINE void add_rows_of_dots(const double* left, const double* right, int64_t columns,
                                        int64_t n, int64_t stride, double* out) {
  int64_t j = 0;
  for (; j + 3 <= columns; j += 3) add_dots<Rows, 3>(left, right + j * n, n, stride, out + j);
  for (; j < columns; ++j) add_dots<Rows, 1>(left, right + j * n, n, stride, out + j);
}

void gram(const MaskedHead& head, int64_t of_class, double* work, double* total) {
  const int64_t n = head.n, first = head.starts[of_class], last = head.starts[of_class + 1];
  if (first == last) return;
  const double* own = head.coupling + of_class * head.r * n;
  double* weight = work;
  double* weighted = work + n;
  for (int64_t other = 0; other <= of_class; ++other) {
    const int64_t start = head.starts[other], stop = head.starts[other + 1];
    if (start == stop) continue;
    const double* theirs = head.coupling + other * head.r * n;
    for (int64_t s = 0; s < n; s += kDoubles) {
      Doubles sum = {};
      for (int64_t i = 0; i < head.r; ++i) {
        sum = multiply_add(load(own + i * n + s), load(theirs + i * n + s), sum);
      }
      store(weight + s, sum);
    }
    for (int64_t f = start; f < stop; ++f) {
      for (int64_t s = 0; s < n; s += kDoubles) {
        store(weighted + (f - start) * n + s, load(weight + s) * load(head.hidden + f * n + s));
      }
    }
    int64_t e = first;
    for (; e + 4 <= last; e += 4) {
      add_rows_of_dots<4>(head.hidden + e * n, weighted, stop - start, n, head.k,
                          total + e * head.k + start);
    }
    for (; e < last; ++e) {
      add_rows_of_dots<1>(head.hidden + e * n, weighted, stop - start, n, head.k,
                          total + e * head.k + start);
    }
  }
}

// sum[v] += h_e (sum over f of Q_ef h_f) for `Rows` entries e and two vectors of samples.
template <int Rows>
FISHERMASK_INLINE void add_forms(const double* matrix, int64_t k, const double* left,
                                 const double* right, int64_t columns, int64_t n,
                                 Doubles (&sum)[2]) {
  Doubles product[Rows][2] = {};
  for (int64_t f = 0; f < columns; ++f) {
    const Doubles low = load(right + f * n), high = load(right + f * n + kDoubles);
    for (int i = 0; i < Rows; ++i) {
      const Doubles factor = broadcast(matrix[i * k + f]);
      product[i][0] = multiply_add(factor, low, product[i][0]);
      product[i][1] = multiply_add(factor, high, product[i][1]);
    }
  }
  for (int i = 0; i < Rows; ++i) {
    sum[0] = multiply_add(load(left + i * n), product[i][0], sum[0]);
    sum[1] = multiply_add(load(left + i * n + kDoubles), product[i][1], sum[1]);
  }
}

void forms(const MaskedHead& head, const double* matrix, int64_t of_class, double* out) {
  const int64_t n = head.n, first = head.starts[of_class], last = head.starts[of_class + 1];
  for (int64_t other = 0; other <= of_class; ++other) {
    const int64_t start = head.starts[other], columns = head.starts[other + 1] - start;
    for (int64_t s = 0; s < n; s += 2 * kDoubles) {
      Doubles sum[2] = {};
      int64_t e = first;
      for (; e + 4 <= last; e += 4) {
        add_forms<4>(matrix + e * head.k + start, head.k, head.hidden + e * n + s,
                     head.hidden + start * n + s, columns, n, sum);
      }
      for (; e < last; ++e) {
        add_forms<1>(matrix + e * head.k + start, head.k, head.hidden + e * n + s,
                     head.hidden + start * n + s, columns, n, sum);
      }
      store(out + other * n + s, sum[0]);
      store(out + other * n + s + kDoubles, sum[1]);
    }
  }
}

#include "simd_end.h"
