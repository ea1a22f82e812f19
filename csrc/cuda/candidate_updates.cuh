// The updates of candidates whose wide products are there: by groups of lanes where a candidate is
// small enough for their registers, else by one thread block each; and which of them is launched.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>

#include "common/score_body.h"
#include "lanes.cuh"
#include "tiled_update.cuh"
#include "utils.cuh"

namespace fishermask {

constexpr int kUpdateThreads = 128;

// What all n candidates keep, and their scores before each update.
struct State {
  double* a;        // (N, r (r + 1) / 2)
  double* b;        // (N, r (r + 1) / 2)
  double* scores;   // (N,)
  double* history;  // (T, N)
  int64_t n;
};

// The candidates of one chunk: first, first + 1, ... of `ids`, or of all where that is null. Those
// whose `wanted` is zero are passed over; null wants all.
struct Chosen {
  int64_t first, count;
  const int64_t* ids;
  const uint8_t* wanted;

  __device__ int64_t id(int64_t x) const { return ids == nullptr ? first + x : ids[first + x]; }
  __device__ bool has(int64_t x) const { return wanted == nullptr || wanted[id(x)] != 0; }
};

// One group of lanes a candidate; see tiled_update.cuh. `each`: doubles of shared memory of one.
template <int kGroup, int kRows, typename Stored, typename T>
__global__ void __launch_bounds__(kUpdateThreads, kRows <= 10 ? 3 : 2)  // blocks of a processor
    update_by_group(Products<Stored, T> products, UpdateColumns columns, Chosen chosen, State state,
                    int64_t each, bool fetch_coupling) {
  extern __shared__ double shared[];
  const int groups = static_cast<int>(blockDim.x) / kGroup;
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int r = products.r, size = packed_size(r);
  TiledCandidate<kGroup, kRows, Stored, T> candidate(lane, r, columns.max_rank,
                                                     shared + group * each);
  const int64_t step = static_cast<int64_t>(gridDim.x) * groups;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * groups; first < chosen.count;
       first += step) {
    // A group without a candidate works on another's, and keeps nothing of it.
    const int64_t x = first + group < chosen.count ? first + group : chosen.count - 1;
    const bool own = first + group < chosen.count && chosen.has(x);
    const int64_t id = chosen.id(x);
    if (fetch_coupling)
      candidate.fetch_coupling(products.coupling + x * r * products.c, products.c);
    candidate.load(state.a + id * size, state.b + id * size);
    __syncwarp();
    double score = state.scores[id];
    for (int t = 0; t < columns.count; ++t) {
      if (own && lane == 0) state.history[t * state.n + id] = score;
      candidate.stage(products, columns, t, x, fetch_coupling);
      candidate.subtract(columns.rank[t]);
      score = candidate.trace();
    }
    if (columns.count == 0) score = candidate.trace();
    // Whoever shares a candidate has read it.
    __syncwarp();
    if (!own) continue;
    candidate.store(state.a + id * size, state.b + id * size);
    if (lane == 0) state.scores[id] = score;
  }
}

template <typename T>
__host__ __device__ constexpr int64_t doubles_of_block(int r, int max_rank) {
  return work_doubles(r) + (work_products(r, max_rank) * static_cast<int64_t>(sizeof(T)) + 7) / 8;
}

// One thread block a candidate, in device memory: for matrices too large for the other.
template <typename Stored, typename T>
__global__ void __launch_bounds__(kUpdateThreads)
    update_by_block(Products<Stored, T> products, UpdateColumns columns, Chosen chosen, State state,
                    double* memory) {
  const BlockLanes lanes;
  const int r = products.r, size = packed_size(r);
  double* work = memory + blockIdx.x * doubles_of_block<T>(r, columns.max_rank);
  T* staged = reinterpret_cast<T*>(work + work_doubles(r));
  for (int64_t x = blockIdx.x; x < chosen.count; x += gridDim.x) {
    if (!chosen.has(x)) continue;
    const int64_t id = chosen.id(x);
    const double score =
        update_candidate(lanes, products, columns, x, state.a + id * size, state.b + id * size,
                         state.scores[id], state.history + id, state.n, work, staged);
    if (lanes.rank() == 0) state.scores[id] = score;
  }
}

// Whether groups of this shape took it: all of a warp must fit into shared memory.
template <int kGroup, int kRows, typename Stored, typename T>
bool launch_groups(const Products<Stored, T>& products, const UpdateColumns& columns,
                   const Chosen& chosen, const State& state, cudaStream_t stream) {
  if (products.r > kRows) return false;
  constexpr int kOfWarp = 32 / kGroup;
  const auto of_warp = [&](int64_t c) {
    return kOfWarp * tiled_doubles<kGroup, kRows, T>(columns.max_rank, c) *
           static_cast<int64_t>(sizeof(double));
  };
  const int64_t c = products.inner == nullptr ? 0 : products.c;
  const bool fetch = c > 0 && of_warp(c) <= kSharedBytes;
  const int64_t bytes = of_warp(fetch ? c : 0);
  if (bytes > kSharedBytes) return false;
  const int64_t warps = std::min<int64_t>(kUpdateThreads / 32, kSharedBytes / bytes);
  update_by_group<kGroup, kRows, Stored, T>
      <<<grid_of(chosen.count, warps * kOfWarp), 32 * warps, warps * bytes, stream>>>(
          products, columns, chosen, state,
          tiled_doubles<kGroup, kRows, T>(columns.max_rank, fetch ? c : 0), fetch);
  return true;
}

template <typename Stored, typename T>
void launch_update(const Products<Stored, T>& products, const UpdateColumns& columns,
                   const Chosen& chosen, const State& state, const torch::stable::Tensor& like,
                   cudaStream_t stream) {
  const bool by_group = launch_groups<2, 2>(products, columns, chosen, state, stream) ||
                        launch_groups<8, 6>(products, columns, chosen, state, stream) ||
                        launch_groups<8, 10>(products, columns, chosen, state, stream) ||
                        launch_groups<32, 20>(products, columns, chosen, state, stream) ||
                        launch_groups<32, 24>(products, columns, chosen, state, stream);
  if (!by_group) {
    const int64_t blocks =
        std::min<int64_t>(chosen.count, 2 * device_attribute(cudaDevAttrMultiProcessorCount));
    const int64_t each = doubles_of_block<T>(products.r, columns.max_rank);
    const torch::stable::Tensor memory =
        torch::stable::new_empty(like, {blocks * each}, torch::headeronly::ScalarType::Double);
    update_by_block<<<static_cast<unsigned>(blocks), kUpdateThreads, 0, stream>>>(
        products, columns, chosen, state, static_cast<double*>(memory.mutable_data_ptr()));
  }
  check_launch();
}

}  // namespace fishermask
