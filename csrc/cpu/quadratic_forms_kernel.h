// The torch-free body of quadratic_forms: V_x Q V_x^T from the lower triangle of a symmetric Q.
//
// With V = [middle | coupling kron hidden], T_x[a, b] = sum of Q_ef h_e h_f over the entries e of
// class a and f of class b, and only half of what is symmetric,
//
//   V Q V^T = H + H^T,   H = middle tril(Q) middle^T + coupling (Z + tril(T) coupling^T)
//   Z_x[c] = (sum over e of class c of h_e Q_e) middle^T
//
// where tril halves the diagonal.
#pragma once

#include <cstdint>
#include <vector>

#include "candidates.h"
#include "isa.h"

namespace fishermask {

// Q laid out in panels of `width` columns, so that a product reads it from first to last.
struct PackedForm {
  std::vector<double> middle;  // panels of (rows from the panel's first column on, columns)
  std::vector<double> cross;   // by class, panels of (masked entries, columns of the middle)
  std::vector<double> pairs;   // panels of (places i >= j of h h^T, pairs a >= b of classes)
};

// Columns of a panel; the last of several may be narrower.
FISHERMASK_DECLARE(int form_panel())

// Forms of the samples [first, first + count), (r, r) each: outs[q] belongs to sample 0.
#define FISHERMASK_QUADRATIC_FORMS(Stored)                                                     \
  FISHERMASK_DECLARE(void quadratic_forms(const Candidates<Stored>& candidates,                \
                                          const std::vector<PackedForm>& forms, int64_t first, \
                                          int64_t count, const std::vector<double*>& outs))
FISHERMASK_QUADRATIC_FORMS(float)
FISHERMASK_QUADRATIC_FORMS(double)
#undef FISHERMASK_QUADRATIC_FORMS

}  // namespace fishermask
