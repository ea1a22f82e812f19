// What csrc/cuda uses of CUDA, for a CPU: every thread of a block is a fiber of one host thread.
//
// It shows whether launches, indices, barriers, shuffles and reductions are right. It has no
// streams and knows nothing of time, of cuBLAS's rounding, or of threads that run at the same
// moment.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the fiber that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorLaunchFailure };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrL2CacheSize };

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

void __syncthreads();
void __syncwarp();

namespace emulated {

struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
  ~DeviceGuard() {}
};
inline int32_t current_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

void run(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes,
         const std::function<void()>& thread);
void* dynamic_memory();
void* lane_memory(int lane);  // of the running fiber's warp, 16 bytes
// Memory of one __shared__ variable for the running block, found by a key of its own.
void* static_memory(const void* key, size_t bytes);

template <typename T, typename Place>
T& shared_variable(Place) {
  static const char key = 0;
  return *static_cast<T*>(static_memory(&key, sizeof(T)));
}

// What stands for kernel<<<grid, block, bytes, stream>>>: called with the kernel's arguments.
template <typename Kernel>
struct Launch {
  const char* name;
  Kernel kernel;
  dim3 grid, block;
  int64_t shared_bytes = 0;
  cudaStream_t stream = nullptr;

  template <typename... Arguments>
  void operator()(Arguments... arguments) const {
    run(name, grid, block, static_cast<size_t>(shared_bytes), [&] { kernel(arguments...); });
  }
};

}  // namespace emulated

template <typename T>
T __shfl_down_sync(unsigned, T value, int delta, int width = 32) {
  static_assert(sizeof(T) <= 16);
  const int lane = static_cast<int>(threadIdx.x % 32);
  std::memcpy(emulated::lane_memory(lane), &value, sizeof(T));
  __syncwarp();
  if (lane % width + delta < width) {
    std::memcpy(&value, emulated::lane_memory(lane + delta), sizeof(T));
  }
  __syncwarp();
  return value;
}
