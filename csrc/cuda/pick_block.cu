// pick_block on a GPU: 2 T launches in the stream's order, and not a word to the host between them.
//
// One thread block chooses, a warp or a thread block then brings each leader up to date. Launches
// in order need no barrier over the grid, and cost the host less than the kernels take.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "common/pick_tensors.h"
#include "lanes.cuh"
#include "utils.cuh"

namespace fishermask {
namespace {

constexpr int kThreads = 128;
constexpr int kSharedBytes = 48 * 1024;  // what every GPU gives without asking for more

template <bool First, typename Lanes>
__device__ void step(const Lanes& lanes, const PickBlock& block, int t, int leader, double* work) {
  if constexpr (First) {
    begin_leader(lanes, block, leader, work);
  } else {
    follow(lanes, block, t, leader, work);
  }
}

// Every leader before the first pick, or after pick t: one warp each, in shared memory.
template <bool First>
__global__ void __launch_bounds__(kThreads) leaders_by_warp(PickBlock block, int t) {
  extern __shared__ double shared[];
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int leader = static_cast<int>(blockIdx.x) * warps + warp;
  if (leader >= block.m) return;
  step<First>(WarpLanes{}, block, t, leader, shared + warp * follow_work(block.r));
}

// The same for matrices too large for that: one thread block each, in memory of its own.
template <bool First>
__global__ void __launch_bounds__(kThreads) leaders_by_block(PickBlock block, int t, double* work) {
  step<First>(BlockLanes{}, block, t, static_cast<int>(blockIdx.x),
              work + static_cast<int64_t>(blockIdx.x) * follow_work(block.r));
}

__global__ void __launch_bounds__(kThreads) choose_one(PickBlock block, int t, double* work) {
  choose(BlockLanes{}, block, t, work);
}

PickResult pick_block_cuda(torch::stable::Tensor e, torch::stable::Tensor h,
                           torch::stable::Tensor setup_traces, int64_t rows, int64_t size,
                           int64_t sign, double reach) {
  const torch::stable::accelerator::DeviceGuard guard(e.get_device_index());
  const cudaStream_t stream = current_stream(e);
  PickTensors tensors(e, h, setup_traces, rows, size, sign, reach);
  const PickBlock& block = tensors.block;
  if (block.m == 0) return tensors.result();

  const int64_t bytes = follow_work(block.r) * static_cast<int64_t>(sizeof(double));
  const bool by_warp = bytes <= kSharedBytes;
  const int warps =
      by_warp ? static_cast<int>(std::min<int64_t>(kThreads / 32, kSharedBytes / bytes)) : 0;
  const int64_t numbers = choose_work(block.m, block.r);
  const int64_t each = by_warp ? 0 : follow_work(block.r);
  const torch::stable::Tensor work = torch::stable::new_empty(e, {numbers + block.m * each});
  double* choosing = static_cast<double*>(work.mutable_data_ptr());
  double* following = choosing + numbers;
  const auto each_leader = [&]<bool First>(int t) {
    if (by_warp) {
      leaders_by_warp<First>
          <<<(block.m + warps - 1) / warps, 32 * warps, warps * bytes, stream>>>(block, t);
    } else {
      leaders_by_block<First><<<block.m, kThreads, 0, stream>>>(block, t, following);
    }
    check_launch();
  };
  each_leader.template operator()<true>(0);
  for (int t = 0; t < block.size; ++t) {
    choose_one<<<1, kThreads, 0, stream>>>(block, t, choosing);
    check_launch();
    if (t + 1 < block.size) each_leader.template operator()<false>(t);
  }
  return tensors.result();
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CUDA, m) {
  m.impl("pick_block", TORCH_BOX(&fishermask::pick_block_cuda));
}
