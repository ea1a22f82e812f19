// Runs a launch: some blocks at a time, which take turns at their barriers, and the threads of each
// as fibers that hand over to one another at barriers alone, in an order of the caller's choice.
// Shared memory is full of NaN before each block, and what lies behind it is watched.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t kStackBytes = 256 * 1024, kLaneBytes = 16, kSharedBytes = 48 * 1024;
constexpr size_t kMargin = 4096;  // behind shared memory
constexpr unsigned kLanes = 32;

enum class Wait { nothing, warp, block, ended };
enum Order { kForward, kBackward, kRandom };

struct Fiber {
  jmp_buf at;
  bool begun = false;
  Wait wait = Wait::nothing;
  char* stack = nullptr;
  char sent[kLaneBytes];  // to the other lanes of its warp
};

// One thread block, whose threads are fibers first, first + 1, ...
struct Block {
  dim3 index;
  unsigned first;
  size_t static_bytes = 0;
  std::unique_ptr<char[]> dynamic;
  std::map<const void*, std::unique_ptr<char[]>> statics;
};

struct Settings {
  Order order = kForward;
  int processors = 132, cache_bytes = 50 << 20, resident = 1;
} settings;

std::mt19937_64 engine(0);
std::vector<Fiber> fibers;
unsigned running;
Block* block_of_running;
jmp_buf scheduler;
ucontext_t beginning;
const std::function<void()>* body;
std::string failure, failure_told;
int64_t counts[3];  // launches, blocks, barriers

// swapcontext would do, with two system calls each time.
void hand_over(jmp_buf& from, jmp_buf& to) {
  if (_setjmp(from) == 0) _longjmp(to, 1);
}

void fail(const std::string& text) {
  if (failure.empty()) failure = text;
}

// A fiber outlives its thread: it waits for the next one's body.
void live() {
  while (true) {
    (*body)();
    fibers[running].wait = Wait::ended;
    hand_over(fibers[running].at, scheduler);
  }
}

void begin_fiber(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    fiber.stack = static_cast<char*>(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (fiber.stack == MAP_FAILED) std::abort();
  }
  fiber.begun = true;
  getcontext(&beginning);
  beginning.uc_stack.ss_sp = fiber.stack;
  beginning.uc_stack.ss_size = kStackBytes;
  beginning.uc_link = nullptr;
  makecontext(&beginning, live, 0);
  if (_setjmp(scheduler) == 0) setcontext(&beginning);
}

void resume(Block& block, unsigned at) {
  running = at;
  block_of_running = &block;
  threadIdx = dim3(at - block.first, 0, 0);
  blockIdx = block.index;
  Fiber& fiber = fibers[at];
  if (fiber.begun) {
    hand_over(scheduler, fiber.at);
  } else {
    begin_fiber(fiber);
  }
}

void wait_for(Wait what) {
  fibers[running].wait = what;
  hand_over(fibers[running].at, scheduler);
}

std::vector<unsigned> in_order(unsigned first, unsigned count) {
  std::vector<unsigned> order(count);
  for (unsigned at = 0; at < count; ++at) order[at] = first + at;
  if (settings.order == kBackward) std::reverse(order.begin(), order.end());
  if (settings.order == kRandom) std::shuffle(order.begin(), order.end(), engine);
  return order;
}

size_t waiting(unsigned first, unsigned count, Wait what) {
  return static_cast<size_t>(std::count_if(fibers.begin() + first, fibers.begin() + first + count,
                                           [&](const Fiber& f) { return f.wait == what; }));
}

void release(unsigned first, unsigned count) {
  for (unsigned at = first; at < first + count; ++at) fibers[at].wait = Wait::nothing;
  ++counts[2];
}

// Runs a warp up to its next barrier; whether it may go on without the others of its block.
bool run_warp(Block& block, unsigned first, unsigned lanes) {
  for (unsigned at : in_order(first, lanes)) {
    if (fibers[at].wait == Wait::nothing) resume(block, at);
  }
  const size_t at_warp = waiting(first, lanes, Wait::warp);
  if (at_warp == lanes) release(first, lanes);
  if (at_warp > 0 && at_warp < lanes) fail("lanes of a warp part at __syncwarp or a shuffle");
  return at_warp > 0 && failure.empty();
}

// Runs a block up to its next barrier; whether it has ended. Forward, each warp runs ahead as far
// as it can; else warps take turns.
bool run_block(Block& block) {
  const unsigned threads = blockDim.x;
  for (bool more = true; more;) {
    more = false;
    for (unsigned warp : in_order(0, (threads + kLanes - 1) / kLanes)) {
      const unsigned first = warp * kLanes, lanes = std::min(kLanes, threads - first);
      bool again = run_warp(block, block.first + first, lanes);
      while (again && settings.order == kForward)
        again = run_warp(block, block.first + first, lanes);
      more = more || again;
    }
  }
  const size_t at_block = waiting(block.first, threads, Wait::block);
  if (at_block == 0) return true;
  if (at_block < threads) fail("threads of a block part at __syncthreads");
  release(block.first, threads);
  return false;
}

std::unique_ptr<char[]> watched(size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  const size_t all = bytes;
#else
  const size_t all = bytes + kMargin;
#endif
  std::unique_ptr<char[]> memory(new char[all]);
  std::memset(memory.get(), 0xff, all);
  return memory;
}

bool untouched(const char* memory, size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  return memory != nullptr || bytes == 0;
#else
  return std::all_of(memory + bytes, memory + bytes + kMargin, [](char c) { return c == '\xff'; });
#endif
}

}  // namespace

void __syncthreads() { wait_for(Wait::block); }
void __syncwarp() { wait_for(Wait::warp); }

namespace emulated {

void* dynamic_memory() { return block_of_running->dynamic.get(); }
void* lane_memory(int lane) {
  return fibers[running - threadIdx.x % kLanes + static_cast<unsigned>(lane)].sent;
}

void* static_memory(const void* key, size_t bytes) {
  std::unique_ptr<char[]>& memory = block_of_running->statics[key];
  if (memory == nullptr) {
    memory = watched(bytes);
    block_of_running->static_bytes += bytes;
  }
  return memory.get();
}

void run(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes,
         const std::function<void()>& thread) {
  if (!failure.empty()) return;
  if (grid.x == 0 || grid.x > 2147483647u || grid.y == 0 || grid.y > 65535 || grid.z != 1 ||
      block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1 ||
      shared_bytes > kSharedBytes) {
    return fail(std::string("invalid configuration of ") + kernel);
  }
  blockDim = block;
  gridDim = grid;
  body = &thread;
  ++counts[0];
  const std::vector<unsigned> order = in_order(0, grid.x * grid.y);
  const unsigned resident = std::min<unsigned>(settings.resident, grid.x * grid.y);
  if (fibers.size() < resident * block.x) fibers.resize(resident * block.x);
  std::vector<std::unique_ptr<Block>> blocks(resident);
  size_t begun = 0, ended = 0;
  while (ended < order.size() && failure.empty()) {
    for (unsigned at : in_order(0, resident)) {
      if (blocks[at] == nullptr && begun < order.size()) {
        const unsigned number = order[begun++];
        const dim3 index(number % grid.x, number / grid.x, 0);
        blocks[at].reset(new Block{index, at * block.x, 0, watched(shared_bytes), {}});
        release(at * block.x, block.x);
      }
      if (blocks[at] == nullptr || !run_block(*blocks[at])) continue;
      const size_t all = blocks[at]->static_bytes + shared_bytes;
      if (all > kSharedBytes) fail("too much shared memory");
      if (!untouched(blocks[at]->dynamic.get(), shared_bytes)) fail("a write behind shared memory");
      blocks[at].reset();
      ++ended;
    }
  }
  counts[1] += static_cast<int64_t>(ended);
  if (failure.empty()) return;
  failure += std::string(" in ") + kernel;
  // They stand in the middle of their work, on stacks that are no longer to be trusted.
  fibers.clear();
}

}  // namespace emulated

cudaError_t cudaGetLastError() {
  if (failure.empty()) return cudaSuccess;
  failure_told = failure;
  failure.clear();
  return cudaErrorLaunchFailure;
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : failure_told.c_str();
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
// All that lies beyond the cache is taken: working arrays are as small as they can be.
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool cache = attribute == cudaDevAttrL2CacheSize;
  *value = cache ? settings.cache_bytes : settings.processors;
  return cudaSuccess;
}

extern "C" {
__attribute__((visibility("default"))) void emulated_schedule(int order, int processors,
                                                              int cache_bytes, int resident,
                                                              unsigned seed) {
  settings = {static_cast<Order>(order), processors, cache_bytes, resident};
  engine.seed(seed);
}
__attribute__((visibility("default"))) void emulated_counts(int64_t* into) {
  std::copy(counts, counts + 3, into);
}
}
