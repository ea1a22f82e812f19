// fold_updates on the CPU: packs U and W once, then deals out the columns of both matrices.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <memory>

#include "fold_updates_kernel.h"

namespace fishermask {
namespace {

using torch::stable::Tensor;

// Rows of `above` and then of `below`, (h, k) each, times `factor`, in groups of `width` columns.
void pack(const double* above, const double* below, int64_t h, int64_t k, int64_t width,
          double factor, double* packed) {
  torch::stable::parallel_for(0, (k + width - 1) / width, 16, [&](int64_t begin, int64_t end) {
    for (int64_t e = 0; e < 2 * h; ++e) {
      const double* from = e < h ? above + e * k : below + (e - h) * k;
      for (int64_t group = begin; group < end; ++group) {
        double* to = packed + (group * 2 * h + e) * width;
        const int64_t first = group * width, here = std::min(width, k - first);
        for (int64_t j = 0; j < here; ++j) to[j] = factor * from[first + j];
        std::fill(to + here, to + width, 0.0);
      }
    }
  });
}

// Panels have the more work the further left they stand; first and last alternate, so that equal
// shares of the order are equal shares of the work.
int64_t panel_at(int64_t place, int64_t panels) {
  return place % 2 == 0 ? place / 2 : panels - 1 - place / 2;
}

void fold_updates_cpu(Tensor first, Tensor second, Tensor u, Tensor w, double sign) {
  const int64_t h = u.size(0), k = u.size(1);
  const FoldTile tile = FISHERMASK_DISPATCH(fold_tile);
  const int64_t blocks = (k + tile.rows - 1) / tile.rows;
  const int64_t panels = (k + tile.columns - 1) / tile.columns;
  const auto numbers = [](int64_t n) {
    return std::make_unique_for_overwrite<double[]>(static_cast<size_t>(n));
  };
  const auto left = numbers(blocks * tile.rows * 2 * h);
  const auto right = numbers(panels * tile.columns * 2 * h);
  const double* of_u = static_cast<const double*>(u.const_data_ptr());
  const double* of_w = static_cast<const double*>(w.const_data_ptr());
  pack(of_u, of_w, h, k, tile.rows, -sign, left.get());
  pack(of_w, of_u, h, k, tile.columns, 1.0, right.get());
  const PackedFold packed{left.get(), right.get(), h, k};
  double* to_first = static_cast<double*>(first.mutable_data_ptr());
  double* to_second = static_cast<double*>(second.mutable_data_ptr());
  torch::stable::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; ++place) {
      FISHERMASK_DISPATCH(fold_panel, packed, panel_at(place, panels), to_first, to_second);
    }
  });
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CPU, m) {
  m.impl("fold_updates", TORCH_BOX(&fishermask::fold_updates_cpu));
}
