// The torch-free body of fold_updates: M^-1 -+= U U^T and G -+= U W^T + W U^T, lower triangles.
#pragma once

#include <cstdint>

#include "isa.h"

namespace fishermask {

// [U W]^T negated (for picks) in blocks of `rows` columns, (blocks, 2 h, rows), and [W U]^T in
// panels of `columns`, (panels, 2 h, columns); both are filled up with zeros.
struct PackedFold {
  const double* left;
  const double* right;
  int64_t h, k;
};

struct FoldTile {
  int64_t rows, columns;
};

FISHERMASK_DECLARE(FoldTile fold_tile())

// Takes the updates to the columns of one panel, from the diagonal down.
FISHERMASK_DECLARE(void fold_panel(const PackedFold& packed, int64_t panel, double* first,
                                   double* second))

}  // namespace fishermask
