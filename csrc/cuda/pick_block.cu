// pick_block on a GPU: 2 T launches in the stream's order, and not a word to the host between them.
//
// One thread block chooses, and one each then brings the leaders up to date. Launches in order need
// no barrier over the grid, and cost the host less than the kernels take.
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

template <bool First, typename Lanes>
__device__ void step(const Lanes& lanes, const PickBlock& block, int t, int leader, double* work) {
  if constexpr (First) {
    begin_leader(lanes, block, leader, work);
  } else {
    follow(lanes, block, t, leader, work);
  }
}

// Every leader before the first pick, or after pick t: one thread block each, in shared memory, or
// in `work` where that is given.
template <bool First>
__global__ void __launch_bounds__(kThreads) each_leader(PickBlock block, int t, double* work) {
  extern __shared__ double shared[];
  const int leader = static_cast<int>(blockIdx.x);
  double* own = work == nullptr ? shared : work + leader * follow_work(block.r);
  step<First>(BlockLanes{}, block, t, leader, own);
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
  const bool shared = bytes <= kSharedBytes;
  const int64_t numbers = choose_work(block.m, block.r, kThreads);
  const int64_t each = shared ? 0 : follow_work(block.r);
  const torch::stable::Tensor work = torch::stable::new_empty(e, {numbers + block.m * each});
  double* choosing = static_cast<double*>(work.mutable_data_ptr());
  double* following = shared ? nullptr : choosing + numbers;
  const auto lead = [&]<bool First>(int t) {
    each_leader<First><<<block.m, kThreads, shared ? bytes : 0, stream>>>(block, t, following);
    check_launch();
  };
  lead.template operator()<true>(0);
  for (int t = 0; t < block.size; ++t) {
    choose_one<<<1, kThreads, 0, stream>>>(block, t, choosing);
    check_launch();
    if (t + 1 < block.size) lead.template operator()<false>(t);
  }
  return tensors.result();
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CUDA, m) {
  m.impl("pick_block", TORCH_BOX(&fishermask::pick_block_cuda));
}
