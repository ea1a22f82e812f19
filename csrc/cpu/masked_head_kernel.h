// The torch-free bodies of masked_head_gram and masked_head_forms, for V = coupling kron hidden at
// masked places alone. Samples lie along vectors: every array's last dimension is the n samples.
#pragma once

#include <cstdint>

#include "isa.h"

namespace fishermask {

struct MaskedHead {
  const double* coupling;  // (c, r, n)
  const double* hidden;    // (k, n): the input of each masked entry, entries sorted by class
  const int64_t* starts;   // (c + 1,) where the entries of each class start
  int64_t c, r, k, n;      // n: a multiple of kSampleStep
};

// Samples are padded with zeros to a multiple of this.
constexpr int64_t kSampleStep = 16;

// gram:  total[e][f] += sum over samples of V_e . V_f for the entries e of one class and f <= e's
//        class, (k, k); `work` holds (widest class + 1) n numbers.
// forms: out[b][s] = sum over entries e of class a and f of class b of h_e Q_ef h_f for samples s
//        and every class b <= a, (c, n); Q (k, k) is symmetric.
FISHERMASK_DECLARE(void gram(const MaskedHead& head, int64_t of_class, double* work, double* total);
                   void forms(const MaskedHead& head, const double* matrix, int64_t of_class,
                              double* out))

}  // namespace fishermask
