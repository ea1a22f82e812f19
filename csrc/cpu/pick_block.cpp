// pick_block on the CPU: the body that the GPU runs, one lane a leader.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "common/pick_tensors.h"

namespace fishermask {
namespace {

PickResult pick_block_cpu(torch::stable::Tensor e, torch::stable::Tensor h,
                          torch::stable::Tensor setup_traces, int64_t rows, int64_t size,
                          int64_t sign, double reach) {
  PickTensors tensors(e, h, setup_traces, rows, size, sign, reach);
  const PickBlock& block = tensors.block;
  const OneLane lane;
  const auto each_leader = [&](const auto& step) {
    torch::stable::parallel_for(0, block.m, 1, [&](int64_t begin, int64_t end) {
      std::vector<double> work(static_cast<size_t>(follow_work(block.r)));
      for (int64_t leader = begin; leader < end; ++leader) {
        step(static_cast<int>(leader), work.data());
      }
    });
  };
  each_leader([&](int leader, double* work) { begin_leader(lane, block, leader, work); });
  std::vector<double> work(static_cast<size_t>(choose_work(block.m, block.r, lane.size())));
  for (int t = 0; t < block.size; ++t) {
    choose(lane, block, t, work.data());
    if (t + 1 == block.size) break;
    each_leader([&](int leader, double* own) { follow(lane, block, t, leader, own); });
  }
  return tensors.result();
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CPU, m) {
  m.impl("pick_block", TORCH_BOX(&fishermask::pick_block_cpu));
}
