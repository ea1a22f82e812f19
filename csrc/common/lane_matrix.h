// Small symmetric matrices, packed as in small_matrix.h, whose entries are shared out over lanes.
//
// `Lanes` are the threads that work on one matrix together: those of a warp or of a thread block on
// a GPU, one alone on a CPU. It has rank(), size() and sync(); what any lane wrote before a sync,
// all of them see after it. The same body therefore runs on both, and is tested without a GPU.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FISHERMASK_LANES __device__ inline
#define FISHERMASK_BOTH __host__ __device__ inline
#else
#define FISHERMASK_LANES inline
#define FISHERMASK_BOTH inline
#endif

namespace fishermask {

#include "common/small_matrix.h"

struct OneLane {
  int rank() const { return 0; }
  int size() const { return 1; }
  void sync() const {}
};

// The row of packed entry e.
FISHERMASK_LANES int packed_row(int e) {
  int row = static_cast<int>((sqrtf(8.0f * static_cast<float>(e) + 1.0f) - 1.0f) * 0.5f);
  while (packed_at(row + 1, 0) <= e) ++row;
  while (packed_at(row, 0) > e) --row;
  return row;
}

FISHERMASK_LANES double reciprocal_of_pivot(double pivot) {
  return pivot > 0.0 ? 1.0 / pivot : NAN;
}

// tr(A^-1 B), NaN where A is not positive definite; destroys both.
//
// Column j is eliminated from A by rows and columns, and the same steps are taken on B: what then
// stands at B's diagonal, divided by the pivot, is column j's share of the trace. Step j writes
// right of column j alone and reads nothing there but its own entry.
template <typename Lanes>
FISHERMASK_LANES double trace_by_elimination(const Lanes& lanes, int n, double* a, double* b) {
  double trace = 0.0;
  for (int j = 0; j < n; ++j) {
    const double reciprocal = reciprocal_of_pivot(a[packed_at(j, j)]);
    const double b_jj = b[packed_at(j, j)];
    trace += b_jj * reciprocal;
    for (int e = packed_at(j + 1, 0) + lanes.rank(); e < packed_size(n); e += lanes.size()) {
      const int i = packed_row(e), k = e - packed_at(i, 0);
      if (k <= j) continue;
      const double a_kj = a[packed_at(k, j)];
      const double l_i = a[packed_at(i, j)] * reciprocal, l_k = a_kj * reciprocal;
      a[e] -= l_i * a_kj;
      b[e] -= l_i * b[packed_at(k, j)] + l_k * (b[packed_at(i, j)] - l_i * b_jj);
    }
    lanes.sync();
  }
  return trace;
}

// L with A = L L^T, NaN where A is not positive definite; destroys A.
template <typename Lanes>
FISHERMASK_LANES void cholesky(const Lanes& lanes, int n, double* a, double* l) {
  for (int j = 0; j < n; ++j) {
    const double reciprocal = reciprocal_of_pivot(a[packed_at(j, j)]);
    for (int e = packed_at(j + 1, 0) + lanes.rank(); e < packed_size(n); e += lanes.size()) {
      const int i = packed_row(e), k = e - packed_at(i, 0);
      if (k > j) a[e] -= a[packed_at(i, j)] * reciprocal * a[packed_at(k, j)];
    }
    lanes.sync();
  }
  for (int e = lanes.rank(); e < packed_size(n); e += lanes.size()) {
    const int i = packed_row(e), k = e - packed_at(i, 0);
    l[e] = a[e] * sqrt(reciprocal_of_pivot(a[packed_at(k, k)]));
  }
  lanes.sync();
}

// X = L^-1 for lower triangular L, as a full (n, n) matrix with zeros above the diagonal.
template <typename Lanes>
FISHERMASK_LANES void invert_lower(const Lanes& lanes, int n, const double* l, double* x) {
  for (int j = lanes.rank(); j < n; j += lanes.size()) {
    for (int i = 0; i < j; ++i) x[i * n + j] = 0.0;
    x[j * n + j] = 1.0 / l[packed_at(j, j)];
    for (int i = j + 1; i < n; ++i) {
      double sum = 0.0;
      for (int m = j; m < i; ++m) sum += l[packed_at(i, m)] * x[m * n + j];
      x[i * n + j] = -sum / l[packed_at(i, i)];
    }
  }
  lanes.sync();
}

// A -= P P^T and B -= P R^T + R P^T, n x n, and copies of both; rows of P and R have q entries and
// stand `stride` apart. Each lane keeps to its own entries of A, B and the copies.
template <typename Lanes, typename T>
FISHERMASK_LANES void subtract_products(const Lanes& lanes, int n, int q, const T* p, const T* r,
                                        int stride, double* a, double* b, double* copy_of_a,
                                        double* copy_of_b) {
  for (int e = lanes.rank(); e < packed_size(n); e += lanes.size()) {
    const int i = packed_row(e), k = e - packed_at(i, 0);
    double of_a = 0.0, of_b = 0.0;
    for (int c = 0; c < q; ++c) {
      const double p_i = p[i * stride + c], p_k = p[k * stride + c];
      of_a += p_i * p_k;
      of_b += p_i * static_cast<double>(r[k * stride + c]);
      of_b += p_k * static_cast<double>(r[i * stride + c]);
    }
    copy_of_a[e] = a[e] -= of_a;
    copy_of_b[e] = b[e] -= of_b;
  }
  lanes.sync();
}

}  // namespace fishermask
