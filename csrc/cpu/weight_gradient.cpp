// Per-sample weight gradients of convolutions and linear layers on the CPU: lays out offsets and
// strides, packs delta, and shares samples or tiles out over the threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "common/weight_layout.h"
#include "weight_gradient_kernel.h"

namespace fishermask {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A register tile costs about as much as this many dot products over neighbouring positions, and
// as these over scattered ones, which go one position at a time.
constexpr int64_t kTileInDots = 24;
constexpr int64_t kTileInScatteredDots = 4;

// Shapes and strides, before the type of the numbers is known.
struct Layout {
  std::vector<int64_t> k_offsets, l_offsets, l_runs;
  int64_t input_step = 0, group_step = 0;
  int64_t delta_n = 0, delta_o = 0, delta_l = 0;
  int64_t n = 0, groups = 1, n_o = 0;

  template <typename T>
  WeightGradient<T> of(const Tensor& input, const Tensor& delta) const {
    return {static_cast<const T*>(input.const_data_ptr()),
            input_step,
            group_step,
            k_offsets.data(),
            l_offsets.data(),
            l_runs.data(),
            static_cast<const T*>(delta.const_data_ptr()),
            delta_n,
            delta_o,
            delta_l,
            n,
            groups,
            n_o,
            static_cast<int64_t>(k_offsets.size()),
            static_cast<int64_t>(l_offsets.size())};
  }

  int64_t numel() const { return groups * n_o * static_cast<int64_t>(k_offsets.size()); }
};

// Whether the positions (y, x) of delta are one dimension with one stride.
bool is_flat(const Tensor& delta) {
  return delta.size(2) == 1 || delta.size(3) == 1 ||
         delta.stride(2) == delta.size(3) * delta.stride(3);
}

// Of each position, how many from it on have inputs that are neighbours, every one of them.
std::vector<int64_t> runs_of(const std::vector<int64_t>& offsets) {
  std::vector<int64_t> runs(offsets.size(), 1);
  for (size_t l = offsets.size(); l-- > 1;) {
    if (offsets[l] - offsets[l - 1] == 1) runs[l - 1] += runs[l];
  }
  return runs;
}

Layout layout_of(const WeightGeometry& geometry) {
  Layout layout;
  for (int64_t k = 0; k < geometry.n_k(); ++k) {
    layout.k_offsets.push_back(geometry.weight_offset(k));
  }
  if (geometry.n_l() > 0) {
    for (Positions l(geometry, 0, 1); l.more(); l.next()) layout.l_offsets.push_back(l.input());
  }
  layout.l_runs = runs_of(layout.l_offsets);
  layout.input_step = geometry.input_n;
  layout.group_step = geometry.channels * geometry.input_c;
  layout.delta_n = geometry.delta_n;
  layout.delta_o = geometry.delta_o;
  layout.delta_l = geometry.width == 1 ? geometry.delta_y : geometry.delta_x;
  layout.n = geometry.n;
  layout.groups = geometry.groups;
  layout.n_o = geometry.n_o;
  return layout;
}

template <typename T>
void sum_squares(const Layout& layout, const Tensor& input, const Tensor& delta, Tensor& result) {
  const WeightGradient<T> problem = layout.of<T>(input, delta);
  const Tile tile = FISHERMASK_DISPATCH(tile_of, problem);
  const int64_t wide = (problem.n_o + tile.width - 1) / tile.width;
  const int64_t deep = (problem.n_k + tile.depth - 1) / tile.depth;
  const int64_t packed_size = problem.groups * wide * tile.width * problem.n_l;
  const Tensor packed = torch::stable::new_empty(delta, {problem.n * packed_size});
  T* to = static_cast<T*>(packed.mutable_data_ptr());
  torch::stable::parallel_for(0, problem.n, 1, [&](int64_t begin, int64_t end) {
    FISHERMASK_DISPATCH(pack_delta, problem, begin, end, to);
  });
  T* sums = static_cast<T*>(result.mutable_data_ptr());
  // Threads share tiles and not samples, so that a sum does not depend on their number.
  torch::stable::parallel_for(0, problem.groups * wide * deep, 1, [&](int64_t begin, int64_t end) {
    FISHERMASK_DISPATCH(sum_of_squares, problem, to, begin, end, sums);
  });
}

template <typename T>
void gather(const Layout& layout, const Tensor& input, const Tensor& delta, const Tensor& index,
            Tensor& result) {
  const WeightGradient<T> problem = layout.of<T>(input, delta);
  const int64_t* positions = static_cast<const int64_t*>(index.const_data_ptr());
  const int64_t n_index = index.numel();
  const bool runs = problem.delta_l == 1 && problem.n_l > 1 && problem.l_runs[0] > 1;
  T* entries_out = static_cast<T*>(result.mutable_data_ptr());
  torch::stable::parallel_for(0, problem.n, 1, [&](int64_t begin, int64_t end) {
    FISHERMASK_DISPATCH(entries, problem, positions, n_index,
                        runs ? kTileInDots : kTileInScatteredDots, begin, end,
                        entries_out + begin * n_index);
  });
}

Tensor squared(const Layout& layout, const Tensor& input, const Tensor& delta,
               const std::vector<int64_t>& shape) {
  Tensor result = torch::stable::new_empty(delta, shape);
  if (layout.n == 0 || layout.l_offsets.empty() || layout.numel() == 0) {
    return torch::stable::zero_(result);
  }
  if (delta.scalar_type() == ScalarType::Double) {
    sum_squares<double>(layout, input, delta, result);
  } else {
    sum_squares<float>(layout, input, delta, result);
  }
  return result;
}

Tensor masked(const Layout& layout, const Tensor& input, const Tensor& delta, const Tensor& index) {
  Tensor result = torch::stable::new_empty(delta, {layout.n, index.numel()});
  if (layout.n == 0 || index.numel() == 0) return result;
  if (delta.scalar_type() == ScalarType::Double) {
    gather<double>(layout, input, delta, index, result);
  } else {
    gather<float>(layout, input, delta, index, result);
  }
  return result;
}

Tensor fisher_diag_conv2d_cpu(Tensor input, Tensor delta, std::vector<int64_t> kernel,
                              std::vector<int64_t> stride, std::vector<int64_t> dilation,
                              int64_t groups) {
  if (!is_flat(delta)) delta = torch::stable::contiguous(delta);
  const Layout layout = layout_of(conv2d_geometry(input, delta, kernel, stride, dilation, groups));
  return squared(layout, input, delta,
                 {delta.size(1), input.size(1) / groups, kernel[0], kernel[1]});
}

Tensor fisher_diag_linear_cpu(Tensor input, Tensor delta) {
  return squared(layout_of(linear_geometry(input, delta)), input, delta,
                 {delta.size(2), input.size(2)});
}

Tensor masked_grad_conv2d_cpu(Tensor input, Tensor delta, Tensor index, std::vector<int64_t> kernel,
                              std::vector<int64_t> stride, std::vector<int64_t> dilation,
                              int64_t groups) {
  if (!is_flat(delta)) delta = torch::stable::contiguous(delta);
  const Layout layout = layout_of(conv2d_geometry(input, delta, kernel, stride, dilation, groups));
  return masked(layout, input, delta, index);
}

Tensor masked_grad_linear_cpu(Tensor input, Tensor delta, Tensor index) {
  return masked(layout_of(linear_geometry(input, delta)), input, delta, index);
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CPU, m) {
  m.impl("fisher_diag_conv2d", TORCH_BOX(&fishermask::fisher_diag_conv2d_cpu));
  m.impl("fisher_diag_linear", TORCH_BOX(&fishermask::fisher_diag_linear_cpu));
  m.impl("masked_grad_conv2d", TORCH_BOX(&fishermask::masked_grad_conv2d_cpu));
  m.impl("masked_grad_linear", TORCH_BOX(&fishermask::masked_grad_linear_cpu));
}
