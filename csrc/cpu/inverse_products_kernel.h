// The torch-free body of inverse_products: V_x S from the lower triangle of a symmetric S, and what
// low-rank updates of S since then add to it.
#pragma once

#include <cstdint>

#include "isa.h"

namespace fishermask {

// V_x = [middle | row by row, coupling kron hidden at the masked places], row-major, float64.
struct SampleRows {
  const double* middle;    // (r, m)
  const double* coupling;  // (r, c)
  const double* hidden;    // (k - m,) the entry of h that each masked place of the head takes
  const int64_t* starts;   // (c + 1,) where the columns of each class start, from m to k
  int64_t r, m, c, k;
};

// Adds to `out` (r, k) what the rows [begin, end) of the triangle contribute: S_ij V_j to column i
// for j <= i, and S_ij V_i to column j for j < i. `work` holds k numbers, all zero before and
// after.
FISHERMASK_DECLARE(void symmetric_products(const SampleRows& v, const double* matrix,
                                           int64_t stride, int64_t begin, int64_t end, double* work,
                                           double* out))

// out (r, h) at the columns [begin, end) = V `other`^T, both row-major with rows of k numbers.
FISHERMASK_DECLARE(void outer_products(const double* v, const double* other, int64_t r, int64_t k,
                                       int64_t h, int64_t begin, int64_t end, double* out))

// Y += P U and Z += R U + P W at the columns [begin, end); p, q: (r, h) P and R; u, w: (h, k).
FISHERMASK_DECLARE(void add_updates(const double* p, const double* q, const double* u,
                                    const double* w, int64_t r, int64_t h, int64_t k, int64_t begin,
                                    int64_t end, double* y, double* z))

}  // namespace fishermask
