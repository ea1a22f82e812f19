// score_update on a GPU: the wide products V [U W] by cuBLAS for as many candidates at a time as
// leave them in the second-level cache, or as keep all processors busy where those are more; a few
// lanes a candidate then take them up for all T updates.
//
// Products with the coupling, A, B, the elimination and the trace never see device memory: what is
// read is V, once, and what is written are A, B and T + 1 scores a candidate. Copies of rows of V,
// in float64 or of the candidates chosen, are made for as many at a time as free memory allows.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "candidate_updates.cuh"
#include "common/score_body.h"
#include "utils.cuh"

namespace fishermask {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 128;
constexpr int kWinnerThreads = 256;
constexpr int64_t kWarpsOfProcessor = 64;  // that it can hold, one candidate each

// U^T and W^T, scaled: the columns outside the head as (2 total, m), those of the head at their
// places in (c, 2 total, d), whose other entries are zero already.
template <typename T>
__global__ void pack_columns(const double* u, const double* w, int64_t u_down, int64_t u_across,
                             int64_t w_down, int64_t w_across, int64_t total, int64_t m, int64_t d,
                             int64_t n_head, const int64_t* places, double scale, T* middle,
                             T* head) {
  const int64_t k = m + n_head;
  for (int64_t at = first_item(); at < 2 * total * k; at += item_stride()) {
    const int64_t row = at / k, column = at % k;
    const double value = row < total ? u[row * u_down + column * u_across]
                                     : w[(row - total) * w_down + column * w_across];
    const T scaled = static_cast<T>(scale * value);
    if (column < m) {
      middle[row * m + column] = scaled;
    } else {
      const int64_t place = places == nullptr ? column - m : places[column - m];
      head[(place / d * 2 * total + row) * d + place % d] = scaled;
    }
  }
}

__global__ void mark(const int64_t* index, int64_t n, uint8_t* wanted) {
  for (int64_t at = first_item(); at < n; at += item_stride()) wanted[index[at]] = 1;
}

// One thread block an update.
__global__ void __launch_bounds__(kWinnerThreads)
    find_winners(const double* history, int64_t n, const int64_t* index, int64_t n_index,
                 const double* thresholds, double* best, int64_t* best_index,
                 int64_t* first_index) {
  __shared__ Winner seen[kWinnerThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t t = blockIdx.x;
  Winner own{-INFINITY, n, n};
  for (int64_t at = thread; at < n_index; at += kWinnerThreads) {
    own.see(history[t * n + index[at]], index[at], thresholds[t]);
  }
  seen[thread] = own;
  for (int half = kWinnerThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) seen[thread].merge(seen[thread + half]);
  }
  if (thread == 0) {
    best[t] = seen[0].best;
    best_index[t] = seen[0].index;
    first_index[t] = seen[0].first;
  }
}

struct Pool {
  Tensor middle;
  std::optional<Tensor> coupling, hidden, head_index;

  int64_t n() const { return middle.size(0); }
  int r() const { return static_cast<int>(middle.size(1)); }
  int64_t m() const { return middle.size(2); }
  int64_t c() const { return coupling.has_value() ? coupling->size(2) : 0; }
  int64_t d() const { return coupling.has_value() ? hidden->size(1) : 0; }
};

// rows [first, first + count) of `part`, or those of `ids`, as values of `type`.
Tensor rows_of(const Tensor& part, const std::optional<Tensor>& ids, int64_t first, int64_t count,
               ScalarType type) {
  Tensor rows = part;
  if (ids.has_value()) {
    const Tensor wanted = torch::stable::narrow(const_cast<Tensor&>(*ids), 0, first, count);
    rows = index_select(part, wanted);
  } else {
    rows = torch::stable::narrow(rows, 0, first, count);
  }
  return torch::stable::to(rows, type);
}

// The columns of some updates, laid out for the products.
template <typename T>
struct Packed {
  UpdateColumns columns;
  Tensor middle;  // (2 total, m)
  Tensor head;    // (c 2 total, d)
};

template <typename T>
constexpr ScalarType kType = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;

// Updates [begin, end), whose columns of u and w start at `first`.
template <typename T>
Packed<T> pack(const Pool& pool, const Tensor& u, const Tensor& w,
               const std::vector<int64_t>& ranks, size_t begin, size_t end, int64_t first,
               double scale, cudaStream_t stream) {
  Packed<T> packed{{}, pool.middle, pool.middle};
  UpdateColumns& columns = packed.columns;
  columns.count = static_cast<int>(end - begin);
  for (size_t t = begin; t < end; ++t) {
    const int rank = static_cast<int>(ranks[t]);
    columns.first[t - begin] = columns.total;
    columns.rank[t - begin] = rank;
    columns.total += rank;
    columns.max_rank = std::max(columns.max_rank, rank);
  }
  const int64_t wide = 2 * static_cast<int64_t>(columns.total);
  packed.middle = torch::stable::new_empty(pool.middle, {wide, pool.m()}, kType<T>);
  packed.head = torch::stable::new_zeros(pool.middle, {pool.c() * wide, pool.d()}, kType<T>);
  const int64_t n_head =
      pool.head_index.has_value() ? pool.head_index->numel() : pool.c() * pool.d();
  const int64_t items = wide * (pool.m() + n_head);
  if (items == 0) return packed;
  const auto from = [&](const Tensor& tensor) {
    return static_cast<const double*>(tensor.const_data_ptr()) + first * tensor.stride(0);
  };
  pack_columns<T><<<grid_of(items, kThreads), kThreads, 0, stream>>>(
      from(u), from(w), u.stride(0), u.stride(1), w.stride(0), w.stride(1), columns.total, pool.m(),
      pool.d(), n_head,
      pool.head_index.has_value() ? static_cast<const int64_t*>(pool.head_index->const_data_ptr())
                                  : nullptr,
      scale, static_cast<T*>(packed.middle.mutable_data_ptr()),
      static_cast<T*>(packed.head.mutable_data_ptr()));
  check_launch();
  return packed;
}

// Candidates at a time. Their products fit into half of the second-level cache, or give every
// processor as many warps as it can hold; but never more memory than there is for work.
template <typename T>
int64_t at_once(const Pool& pool, const UpdateColumns& columns, int64_t memory) {
  const int64_t each =
      (pool.r() + pool.c()) * 2 * std::max(columns.total, 1) * static_cast<int64_t>(sizeof(T));
  const int64_t busy = kWarpsOfProcessor * device_attribute(cudaDevAttrMultiProcessorCount);
  const int64_t cached = device_attribute(cudaDevAttrL2CacheSize) / 2 / each;
  return std::max<int64_t>(1, std::min(std::max(busy, cached), memory / each));
}

// out = (rows [first, first + count) of `part`, or those of `ids`, as matrices with `width` columns
// of type T) times `columns`; rows that are copied, some at a time.
template <typename Stored, typename T>
void multiply(const Tensor& part, const std::optional<Tensor>& ids, int64_t first, int64_t count,
              int64_t width, const Tensor& columns, const Tensor& out, int64_t memory) {
  const int64_t rows_of_one = out.size(0) / count;
  const int64_t copied = (ids.has_value() ? static_cast<int64_t>(sizeof(Stored)) : 0) +
                         (std::is_same_v<Stored, T> ? 0 : static_cast<int64_t>(sizeof(T)));
  const int64_t each = rows_of_one * width * copied;
  const int64_t step = each == 0 ? count : std::clamp<int64_t>(memory / each, 1, count);
  for (int64_t at = 0; at < count; at += step) {
    const int64_t some = std::min(step, count - at);
    const Tensor rows = rows_of(part, ids, first + at, some, kType<T>);
    const Tensor flat = torch::stable::view(rows, {some * rows_of_one, width});
    multiply_into(
        torch::stable::narrow(const_cast<Tensor&>(out), 0, at * rows_of_one, some * rows_of_one),
        flat, columns);
  }
}

template <typename Stored, typename T>
void update(const Pool& pool, const Packed<T>& packed, const std::optional<Tensor>& ids,
            const uint8_t* wanted, int64_t n, const State& state, cudaStream_t stream) {
  const int64_t wide = 2 * static_cast<int64_t>(packed.columns.total);
  const int64_t memory = memory_for_work();
  const int64_t step = std::min(n, at_once<T>(pool, packed.columns, memory));
  const Tensor columns = torch::stable::transpose(packed.middle, 0, 1);
  const Tensor head = torch::stable::transpose(packed.head, 0, 1);
  const bool has_middle = pool.m() > 0 && wide > 0, has_head = pool.c() > 0 && wide > 0;
  const Tensor of_middle =
      torch::stable::new_empty(pool.middle, {has_middle ? step * pool.r() : 0, wide}, kType<T>);
  const Tensor of_head =
      torch::stable::new_empty(pool.middle, {has_head ? step : 0, pool.c() * wide}, kType<T>);
  for (int64_t first = 0; first < n; first += step) {
    const int64_t count = std::min(step, n - first);
    Products<Stored, T> products{nullptr, nullptr, nullptr, pool.r(), static_cast<int>(pool.c())};
    std::optional<Tensor> coupling;  // until the kernel is in the stream
    if (has_middle) {
      const Tensor out =
          torch::stable::narrow(const_cast<Tensor&>(of_middle), 0, 0, count * pool.r());
      multiply<Stored, T>(pool.middle, ids, first, count, pool.m(), columns, out, memory);
      products.middle = static_cast<const T*>(out.const_data_ptr());
    }
    if (has_head) {
      coupling = rows_of(*pool.coupling, ids, first, count, pool.coupling->scalar_type());
      products.coupling = static_cast<const Stored*>(coupling->const_data_ptr());
      const Tensor out = torch::stable::narrow(const_cast<Tensor&>(of_head), 0, 0, count);
      multiply<Stored, T>(*pool.hidden, ids, first, count, pool.d(), head, out, memory);
      products.inner = static_cast<const T*>(out.const_data_ptr());
    }
    const Chosen chosen{
        first, count,
        ids.has_value() ? static_cast<const int64_t*>(ids->const_data_ptr()) : nullptr, wanted};
    launch_update(products, packed.columns, chosen, state, pool.middle, stream);
  }
}

std::tuple<Tensor, Tensor, Tensor> score_update_cuda(
    Tensor middle, std::optional<Tensor> coupling, std::optional<Tensor> hidden,
    std::optional<Tensor> head_index, Tensor index, Tensor u, Tensor w, std::vector<int64_t> ranks,
    double scale, Tensor thresholds, bool float64_products, Tensor a, Tensor b, Tensor scores) {
  const torch::stable::accelerator::DeviceGuard guard(middle.get_device_index());
  const cudaStream_t stream = current_stream(middle);
  const Pool pool{middle, coupling, hidden, head_index};
  const int64_t n_updates = static_cast<int64_t>(ranks.size()), n_index = index.numel();
  const Tensor history = torch::stable::new_empty(a, {n_updates, pool.n()});
  Tensor best = torch::stable::new_empty(a, {n_updates});
  Tensor best_index = torch::stable::new_empty(a, {n_updates}, ScalarType::Long);
  Tensor first_index = torch::stable::new_empty(a, {n_updates}, ScalarType::Long);
  const int64_t* indices = static_cast<const int64_t*>(index.const_data_ptr());

  // Most candidates are passed over in the products of all; few are gathered first.
  const bool most = 2 * n_index > pool.n();
  const Tensor wanted = torch::stable::new_zeros(a, {most ? pool.n() : 0}, ScalarType::Byte);
  if (most && n_index < pool.n()) {
    mark<<<grid_of(n_index, kThreads), kThreads, 0, stream>>>(
        indices, n_index, static_cast<uint8_t*>(wanted.mutable_data_ptr()));
    check_launch();
  }
  const uint8_t* marks =
      most && n_index < pool.n() ? static_cast<const uint8_t*>(wanted.const_data_ptr()) : nullptr;
  const std::optional<Tensor> ids = most ? std::nullopt : std::optional<Tensor>(index);
  State state{static_cast<double*>(a.mutable_data_ptr()),
              static_cast<double*>(b.mutable_data_ptr()),
              static_cast<double*>(scores.mutable_data_ptr()),
              static_cast<double*>(history.mutable_data_ptr()), pool.n()};

  const auto run = [&](auto stored, auto compute) {
    using Stored = decltype(stored);
    using T = decltype(compute);
    int64_t column = 0;
    for (size_t begin = 0; begin == 0 || begin < ranks.size(); begin += kMaxUpdates) {
      const size_t end = std::min(begin + kMaxUpdates, ranks.size());
      const Packed<T> packed = pack<T>(pool, u, w, ranks, begin, end, column, scale, stream);
      update<Stored>(pool, packed, ids, marks, most ? pool.n() : n_index, state, stream);
      column += packed.columns.total;
      state.history += packed.columns.count * pool.n();
    }
  };
  if (n_index > 0) {
    if (middle.scalar_type() == ScalarType::Double) {
      run(double{}, double{});
    } else if (float64_products) {
      run(float{}, double{});
    } else {
      run(float{}, float{});
    }
  }
  if (n_updates > 0) {
    find_winners<<<static_cast<unsigned>(n_updates), kWinnerThreads, 0, stream>>>(
        static_cast<const double*>(history.const_data_ptr()), pool.n(), indices, n_index,
        static_cast<const double*>(thresholds.const_data_ptr()),
        static_cast<double*>(best.mutable_data_ptr()),
        static_cast<int64_t*>(best_index.mutable_data_ptr()),
        static_cast<int64_t*>(first_index.mutable_data_ptr()));
    check_launch();
  }
  return {best, best_index, first_index};
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CUDA, m) {
  m.impl("score_update", TORCH_BOX(&fishermask::score_update_cuda));
}
