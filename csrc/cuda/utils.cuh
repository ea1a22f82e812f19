// What every CUDA op needs around its launch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/stableivalue_conversions.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace fishermask {

// Of shared memory, to a thread block: what every GPU gives without asking for more.
constexpr int kSharedBytes = 48 * 1024;

// Of torch's C functions, whose checking macro has another name in each of its versions.
inline void check_torch(AOTITorchError status) {
  STD_TORCH_CHECK(status == AOTI_TORCH_SUCCESS, "a call of torch failed");
}

// The stream that torch is using on the device that holds `tensor`.
inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  check_torch(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Rows of `self` along its first dimension; torch::stable has it from torch 2.14 on alone.
inline torch::stable::Tensor index_select(const torch::stable::Tensor& self,
                                          const torch::stable::Tensor& index) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(self),
                                    torch::stable::detail::from(int64_t{0}),
                                    torch::stable::detail::from(index)};
  check_torch(torch_call_dispatcher("aten::index_select", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

// out = a b, all of them matrices, in memory that is there already.
inline void multiply_into(const torch::stable::Tensor& out, const torch::stable::Tensor& a,
                          const torch::stable::Tensor& b) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  check_torch(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<torch::stable::Tensor>(stack[0]);  // which takes the reference back
}

inline void check_cuda(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "CUDA: ", cudaGetErrorString(status));
}

inline void check_launch() { check_cuda(cudaGetLastError()); }

// An attribute of the current device.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device));
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Bytes that each of an op's working arrays may take: a share of what is free, and no more than
// helps. What torch holds without using it looks taken; so at least as much as stays in the cache.
inline int64_t memory_for_work() {
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total));
  const int64_t least = device_attribute(cudaDevAttrL2CacheSize);
  return std::max<int64_t>(least,
                           std::min<int64_t>(static_cast<int64_t>(free) / 8, int64_t{2} << 30));
}

// Thread blocks of a grid-stride loop over n items, `each` of them a block.
inline unsigned grid_of(int64_t n, int64_t each) {
  const int64_t most = 32 * static_cast<int64_t>(device_attribute(cudaDevAttrMultiProcessorCount));
  return static_cast<unsigned>(std::clamp<int64_t>((n + each - 1) / each, 1, most));
}

// This thread's first item of a grid-stride loop, and the way to the next.
__device__ inline int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t item_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

}  // namespace fishermask
