// score_update on the CPU: packs U and W once for all candidates, then updates these in parallel.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "candidate_tensors.h"
#include "score_update_kernel.h"

namespace fishermask {

void Beaten::merge(const Beaten& other) {
  for (size_t t = 0; t < best.size(); ++t) {
    if (other.best[t] > best[t] ||
        (other.best[t] == best[t] && other.best_index[t] < best_index[t])) {
      best[t] = other.best[t];
      best_index[t] = other.best_index[t];
    }
    first_index[t] = std::min(first_index[t], other.first_index[t]);
  }
}

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Updates of few columns are taken together until there are about so many, enough for all
// registers, as long as the products of all classes with them stay in the second-level cache.
constexpr int64_t kTogether = 24, kInnerNumbers = 2048;

// The columns [U_t W_t] of the updates of each group side by side, scaled, in the type of the
// products.
template <typename T>
class PackedUpdates {
 public:
  PackedUpdates(const Tensor& u, const Tensor& w, const std::vector<int64_t>& ranks,
                const double* thresholds, double scale, int64_t m, int64_t n_head, int64_t c) {
    updates_.ranks.assign(ranks.begin(), ranks.end());
    updates_.thresholds = thresholds;
    updates_.most_columns = 0;
    const int64_t rows = m + n_head, n_updates = static_cast<int64_t>(ranks.size());
    const int64_t most = c == 0 ? kTogether : std::min(kTogether, kInnerNumbers / c);
    memory_.resize(static_cast<size_t>(rows * 2 * u.size(0)));
    T* to = memory_.data();
    int64_t first = 0;
    for (int64_t begin = 0, end = 0; begin < n_updates; begin = end) {
      int64_t columns = 0;
      while (end < n_updates && (end == begin || columns + 2 * ranks[end] <= most)) {
        columns += 2 * ranks[end++];
      }
      updates_.groups.push_back({static_cast<int>(begin), static_cast<int>(end),
                                 static_cast<int>(columns), to, to + m * columns});
      updates_.most_columns = std::max(updates_.most_columns, static_cast<int>(columns));
      int64_t offset = 0;
      for (int64_t t = begin; t < end; ++t) {
        pack(u, w, first, ranks[t], scale, rows, columns, to + offset);
        first += ranks[t];
        offset += 2 * ranks[t];
      }
      to += rows * columns;
    }
  }

  const Updates<T>& updates() const { return updates_; }

 private:
  static void pack(const Tensor& u, const Tensor& w, int64_t first, int64_t rank, double scale,
                   int64_t rows, int64_t columns, T* to) {
    const Tensor* parts[2] = {&u, &w};
    for (int part = 0; part < 2; ++part) {
      const double* from = static_cast<const double*>(parts[part]->const_data_ptr());
      const int64_t down = parts[part]->stride(0), across = parts[part]->stride(1);
      torch::stable::parallel_for(0, rows, 256, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const double* source = from + first * down + row * across;
          T* target = to + row * columns + part * rank;
          for (int64_t q = 0; q < rank; ++q) {
            target[q] = static_cast<T>(scale * source[q * down]);
          }
        }
      });
    }
  }

  Updates<T> updates_;
  std::vector<T> memory_;
};

template <typename Stored, typename T>
void run(const Candidates<Stored>& candidates, const PackedUpdates<T>& packed, const Tensor& index,
         const ScoreState& state, int64_t none, Beaten& beaten) {
  const int64_t* indices = static_cast<const int64_t*>(index.const_data_ptr());
  std::mutex mutex;
  torch::stable::parallel_for(0, index.numel(), 32, [&](int64_t begin, int64_t end) {
    Beaten seen(static_cast<int>(packed.updates().ranks.size()), none);
    FISHERMASK_DISPATCH(score_update, candidates, packed.updates(), indices + begin, end - begin,
                        state, seen);
    const std::lock_guard<std::mutex> lock(mutex);
    beaten.merge(seen);
  });
}

std::tuple<Tensor, Tensor, Tensor> score_update_cpu(
    Tensor middle, std::optional<Tensor> coupling, std::optional<Tensor> hidden,
    std::optional<Tensor> head_index, Tensor index, Tensor u, Tensor w, std::vector<int64_t> ranks,
    double scale, Tensor thresholds, bool float64_products, Tensor a, Tensor b, Tensor scores) {
  const int64_t none = middle.size(0);
  const ScoreState state{static_cast<double*>(a.mutable_data_ptr()),
                         static_cast<double*>(b.mutable_data_ptr()),
                         static_cast<double*>(scores.mutable_data_ptr())};
  const double* limits = static_cast<const double*>(thresholds.const_data_ptr());
  const MaskedEntries head(head_index, coupling, hidden);
  Beaten beaten(static_cast<int>(ranks.size()), none);

  const auto with = [&](auto stored, auto compute) {
    using Stored = decltype(stored);
    using Compute = decltype(compute);
    const PackedUpdates<Compute> packed(u, w, ranks, limits, scale, middle.size(2), head.size(),
                                        coupling.has_value() ? coupling->size(2) : 0);
    run(candidates_of<Stored>(middle, coupling, hidden, head), packed, index, state, none, beaten);
  };
  if (middle.scalar_type() == ScalarType::Double) {
    with(double{}, double{});
  } else if (float64_products) {
    with(float{}, double{});
  } else {
    with(float{}, float{});
  }

  const int64_t n_updates = static_cast<int64_t>(ranks.size());
  Tensor best = torch::stable::new_empty(a, {n_updates});
  Tensor best_index = torch::stable::new_empty(a, {n_updates}, ScalarType::Long);
  Tensor first_index = torch::stable::new_empty(a, {n_updates}, ScalarType::Long);
  std::copy(beaten.best.begin(), beaten.best.end(), static_cast<double*>(best.mutable_data_ptr()));
  std::copy(beaten.best_index.begin(), beaten.best_index.end(),
            static_cast<int64_t*>(best_index.mutable_data_ptr()));
  std::copy(beaten.first_index.begin(), beaten.first_index.end(),
            static_cast<int64_t*>(first_index.mutable_data_ptr()));
  return {best, best_index, first_index};
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CPU, m) {
  m.impl("score_update", TORCH_BOX(&fishermask::score_update_cpu));
}
