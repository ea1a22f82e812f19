// Per-sample weight gradients of convolutions and linear layers on a GPU.
//
// At masked positions: a warp, or a part of one where there are few positions to sum over, takes
// the dot product of one sample and one entry. Squared and summed: a thread block keeps a tile of
// the gradient in registers, squares it after each of its samples and writes it once; where there
// are too few tiles for the GPU, samples are shared out too and summed in a fixed order after.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "common/weight_layout.h"
#include "lanes.cuh"
#include "utils.cuh"

namespace fishermask {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;
constexpr unsigned kAllLanes = 0xffffffffu;

// width: threads an entry, a power of two up to 32.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gather_entries(WeightGeometry geometry, const T* input, const T* delta, const int64_t* index,
                   int64_t n_index, int width, T* result) {
  const int64_t entries = geometry.n * n_index, step = item_stride() / width;
  const int thread = static_cast<int>(threadIdx.x) % width;
  // The bound is a warp's and not a thread's: all of its lanes take part in the sums.
  const int64_t warp_first = first_item() / 32 * 32 / width, place = first_item() % 32 / width;
  for (int64_t first = warp_first; first < entries; first += step) {
    const int64_t at = first + place;
    T sum = 0;
    if (at < entries) {
      sum =
          share_of_entry(geometry, input, delta, at / n_index, index[at % n_index], thread, width);
    }
    for (int half = width / 2; half > 0; half /= 2) {
      sum += __shfl_down_sync(kAllLanes, sum, half, width);
    }
    if (thread == 0 && at < entries) result[at] = sum;
  }
}

// blockIdx.x: the tile; blockIdx.y: which part of the samples.
template <typename T, int Channels>
__global__ void __launch_bounds__(kThreads)
    sum_squares(WeightGeometry geometry, const T* input, const T* delta, T* partial) {
  __shared__ TileMemory<T, Channels> memory;
  sum_squares_of_tile<BlockLanes, T, Channels>(BlockLanes{}, geometry, input, delta, blockIdx.x,
                                               blockIdx.y, gridDim.y, memory,
                                               partial + blockIdx.y * geometry.numel());
}

template <typename T>
__global__ void add_parts(const T* partial, int64_t numel, int64_t parts, T* result) {
  for (int64_t at = first_item(); at < numel; at += item_stride()) {
    T sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += partial[part * numel + at];
    result[at] = sum;
  }
}

template <typename T, int Channels>
void launch_squares(const WeightGeometry& geometry, const Tensor& input, const Tensor& delta,
                    Tensor& result, cudaStream_t stream) {
  const int64_t tiles = geometry.groups * tiles_wide<Channels>(geometry) * tiles_deep(geometry);
  const int64_t wanted = 4 * static_cast<int64_t>(device_attribute(cudaDevAttrMultiProcessorCount));
  const int64_t parts = std::clamp<int64_t>(wanted / tiles, 1, geometry.n);
  const Tensor partial =
      parts > 1 ? torch::stable::new_empty(result, {parts * geometry.numel()}) : result;
  T* to = static_cast<T*>(partial.mutable_data_ptr());
  sum_squares<T, Channels>
      <<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(parts)), kThreads, 0, stream>>>(
          geometry, static_cast<const T*>(input.const_data_ptr()),
          static_cast<const T*>(delta.const_data_ptr()), to);
  check_launch();
  if (parts == 1) return;
  add_parts<<<grid_of(geometry.numel(), kThreads), kThreads, 0, stream>>>(
      to, geometry.numel(), parts, static_cast<T*>(result.mutable_data_ptr()));
  check_launch();
}

template <typename T>
void squares_of(const WeightGeometry& geometry, const Tensor& input, const Tensor& delta,
                Tensor& result, cudaStream_t stream) {
  if (geometry.n_o <= kTileSide) {
    launch_squares<T, 1>(geometry, input, delta, result, stream);
  } else if (geometry.n_o <= 2 * kTileSide) {
    launch_squares<T, 2>(geometry, input, delta, result, stream);
  } else {
    launch_squares<T, 4>(geometry, input, delta, result, stream);
  }
}

Tensor squared(const WeightGeometry& geometry, const Tensor& input, const Tensor& delta,
               const std::vector<int64_t>& shape) {
  const torch::stable::accelerator::DeviceGuard guard(delta.get_device_index());
  Tensor result = torch::stable::new_empty(delta, shape);
  if (geometry.n == 0 || geometry.n_l() == 0 || geometry.numel() == 0) {
    return torch::stable::zero_(result);
  }
  if (delta.scalar_type() == ScalarType::Double) {
    squares_of<double>(geometry, input, delta, result, current_stream(delta));
  } else {
    squares_of<float>(geometry, input, delta, result, current_stream(delta));
  }
  return result;
}

template <typename T>
void gather(const WeightGeometry& geometry, const Tensor& input, const Tensor& delta,
            const Tensor& index, Tensor& result, cudaStream_t stream) {
  int width = 1;
  while (width < 32 && width < geometry.n_l()) width *= 2;
  gather_entries<<<grid_of(result.numel() * width, kThreads), kThreads, 0, stream>>>(
      geometry, static_cast<const T*>(input.const_data_ptr()),
      static_cast<const T*>(delta.const_data_ptr()),
      static_cast<const int64_t*>(index.const_data_ptr()), index.numel(), width,
      static_cast<T*>(result.mutable_data_ptr()));
  check_launch();
}

Tensor masked(const WeightGeometry& geometry, const Tensor& input, const Tensor& delta,
              const Tensor& index) {
  const torch::stable::accelerator::DeviceGuard guard(delta.get_device_index());
  Tensor result = torch::stable::new_empty(delta, {geometry.n, index.numel()});
  if (result.numel() == 0) return result;
  if (geometry.n_l() == 0) return torch::stable::zero_(result);
  if (delta.scalar_type() == ScalarType::Double) {
    gather<double>(geometry, input, delta, index, result, current_stream(delta));
  } else {
    gather<float>(geometry, input, delta, index, result, current_stream(delta));
  }
  return result;
}

Tensor fisher_diag_conv2d_cuda(Tensor input, Tensor delta, std::vector<int64_t> kernel,
                               std::vector<int64_t> stride, std::vector<int64_t> dilation,
                               int64_t groups) {
  return squared(conv2d_geometry(input, delta, kernel, stride, dilation, groups), input, delta,
                 {delta.size(1), input.size(1) / groups, kernel[0], kernel[1]});
}

Tensor fisher_diag_linear_cuda(Tensor input, Tensor delta) {
  return squared(linear_geometry(input, delta), input, delta, {delta.size(2), input.size(2)});
}

Tensor masked_grad_conv2d_cuda(Tensor input, Tensor delta, Tensor index,
                               std::vector<int64_t> kernel, std::vector<int64_t> stride,
                               std::vector<int64_t> dilation, int64_t groups) {
  return masked(conv2d_geometry(input, delta, kernel, stride, dilation, groups), input, delta,
                index);
}

Tensor masked_grad_linear_cuda(Tensor input, Tensor delta, Tensor index) {
  return masked(linear_geometry(input, delta), input, delta, index);
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CUDA, m) {
  m.impl("fisher_diag_conv2d", TORCH_BOX(&fishermask::fisher_diag_conv2d_cuda));
  m.impl("fisher_diag_linear", TORCH_BOX(&fishermask::fisher_diag_linear_cuda));
  m.impl("masked_grad_conv2d", TORCH_BOX(&fishermask::masked_grad_conv2d_cuda));
  m.impl("masked_grad_linear", TORCH_BOX(&fishermask::masked_grad_linear_cuda));
}
