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

// V_x S = out + coupling classes, with classes[c] the sum over the entries e of class c of h_e S_e.
// Adds to both what the rows [begin, end) of the triangle contribute: S_ij for column i and j <= i,
// and S_ij for column j and j < i. `classes` is (c, k) and `out` (r, k).
FISHERMASK_DECLARE(void symmetric_products(const SampleRows& v, const double* matrix,
                                           int64_t stride, int64_t begin, int64_t end,
                                           double* classes, double* out))

// `result` (r, k) = out + coupling classes at the columns [begin, end), of several parts (c + r, k)
// of both, classes first, which it adds up in place.
FISHERMASK_DECLARE(void gather_products(const SampleRows& v, double* sums, int64_t parts,
                                        int64_t begin, int64_t end, double* result))

// out (r, h) at the columns [begin, end) = V `other`^T, both row-major with rows of k numbers.
FISHERMASK_DECLARE(void outer_products(const double* v, const double* other, int64_t r, int64_t k,
                                       int64_t h, int64_t begin, int64_t end, double* out))

// Y += P U and Z += R U + P W at the columns [begin, end); p, q: (r, h) P and R; u, w: (h, k).
FISHERMASK_DECLARE(void add_updates(const double* p, const double* q, const double* u,
                                    const double* w, int64_t r, int64_t h, int64_t k, int64_t begin,
                                    int64_t end, double* y, double* z))

}  // namespace fishermask
