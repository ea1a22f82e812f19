// The threads that work on one small matrix together; see lane_matrix.h.
#pragma once

namespace fishermask {

struct BlockLanes {
  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int size() const { return static_cast<int>(blockDim.x); }
  __device__ void sync() const { __syncthreads(); }
};

}  // namespace fishermask
