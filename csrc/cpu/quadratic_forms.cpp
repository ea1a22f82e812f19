// quadratic_forms on the CPU: lays every Q out once for all samples, then takes these in parallel.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "candidate_tensors.h"
#include "quadratic_forms_kernel.h"

namespace fishermask {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kSamples = 128;  // a thread's share is a multiple of so many

// The lower triangle of a symmetric (k, k) Q, its rows and columns those of V.
struct Triangle {
  const double* numbers;
  int64_t k, m;

  double at(int64_t row, int64_t column) const { return numbers[row * k + column]; }
};

// Calls each(first, width) for the panels of so many columns, in parallel.
template <typename Each>
void each_panel(int64_t columns, int64_t panel, const Each& each) {
  const int64_t panels = (columns + panel - 1) / panel;
  torch::stable::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      each(at * panel, std::min(panel, columns - at * panel));
    }
  });
}

std::vector<double> pack_middle(const Triangle& q, int64_t panel) {
  // All panels but the last are as wide as `panel`: so many numbers stand before column `first`.
  const auto before = [&](int64_t first) { return first * q.m - first * (first - panel) / 2; };
  const int64_t last = q.m == 0 ? 0 : (q.m - 1) / panel * panel;
  std::vector<double> packed(static_cast<size_t>(before(last) + (q.m - last) * (q.m - last)));
  each_panel(q.m, panel, [&](int64_t first, int64_t width) {
    double* to = packed.data() + before(first);
    for (int64_t row = first; row < q.m; ++row, to += width) {
      const int64_t below = std::min(width, row - first);
      std::copy_n(q.numbers + row * q.k + first, below, to);
      if (below < width) to[below] = 0.5 * q.at(row, row);
    }
  });
  return packed;
}

std::vector<double> pack_cross(const Triangle& q, const std::vector<int64_t>& starts,
                               int64_t panel) {
  std::vector<double> packed(static_cast<size_t>(starts.back() * q.m));
  each_panel(static_cast<int64_t>(starts.size()) - 1, 1, [&](int64_t own, int64_t) {
    double* to = packed.data() + starts[own] * q.m;
    for (int64_t first = 0; first < q.m; first += panel) {
      const int64_t width = std::min(panel, q.m - first);
      for (int64_t e = starts[own]; e < starts[own + 1]; ++e, to += width) {
        std::copy_n(q.numbers + (q.m + e) * q.k + first, width, to);
      }
    }
  });
  return packed;
}

// For the pair (a, b) of classes the sum over its entries (e, f), f <= e, of Q_ef h_e h_f, as
// factors of the places of h h^T; entries on the diagonal count half.
std::vector<double> pack_pairs(const Triangle& q, const MaskedEntries& head, int64_t d,
                               int64_t panel) {
  const int64_t classes = static_cast<int64_t>(head.starts.size()) - 1;
  const int64_t pairs = classes * (classes + 1) / 2, places = d * (d + 1) / 2;
  const auto input = [&](int64_t e, int64_t c) {
    return head.inputs.empty() ? e - c * d : static_cast<int64_t>(head.inputs[e]);
  };
  std::vector<double> packed(static_cast<size_t>(pairs * places));
  each_panel(pairs, panel, [&](int64_t first, int64_t width) {
    int64_t a = 0, b = first;
    while (b > a) b -= ++a;
    for (int64_t column = 0; column < width; ++column) {
      double* to = packed.data() + first * places + column;
      for (int64_t e = head.starts[a]; e < head.starts[a + 1]; ++e) {
        const int64_t i = input(e, a), stop = a == b ? e : head.starts[b + 1];
        const double* row = q.numbers + (q.m + e) * q.k + q.m;
        for (int64_t f = head.starts[b]; f < stop; ++f) {
          const int64_t j = input(f, b), high = std::max(i, j), low = std::min(i, j);
          to[(high * (high + 1) / 2 + low) * width] += row[f];
        }
        if (a == b) to[i * (i + 3) / 2 * width] += 0.5 * row[e];
      }
      if (b++ == a) {
        ++a;
        b = 0;
      }
    }
  });
  return packed;
}

template <typename Stored>
void run(const Candidates<Stored>& candidates, const std::vector<PackedForm>& forms, int64_t n,
         const std::vector<double*>& outs) {
  const int64_t shares = (n + kSamples - 1) / kSamples;
  torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kSamples, stop = std::min(end * kSamples, n);
    FISHERMASK_DISPATCH(quadratic_forms, candidates, forms, first, stop - first, outs);
  });
}

Tensor quadratic_forms_cpu(Tensor middle, std::optional<Tensor> coupling,
                           std::optional<Tensor> hidden, std::optional<Tensor> head_index,
                           std::vector<Tensor> matrices) {
  const int64_t n = middle.size(0), r = middle.size(1), m = middle.size(2);
  const MaskedEntries head(head_index, coupling, hidden);
  const int64_t panel = FISHERMASK_DISPATCH(form_panel);
  std::vector<PackedForm> forms;
  const int64_t count = static_cast<int64_t>(matrices.size());
  Tensor result = torch::stable::new_empty(middle, {count, n, r, r}, ScalarType::Double);
  std::vector<double*> outs;
  for (const Tensor& matrix : matrices) {
    const Triangle q{static_cast<const double*>(matrix.const_data_ptr()), matrix.size(0), m};
    forms.push_back({pack_middle(q, panel), pack_cross(q, head.starts, panel),
                     coupling.has_value() ? pack_pairs(q, head, hidden->size(1), panel)
                                          : std::vector<double>()});
    outs.push_back(static_cast<double*>(result.mutable_data_ptr()) +
                   static_cast<int64_t>(outs.size()) * n * r * r);
  }
  if (middle.scalar_type() == ScalarType::Double) {
    run(candidates_of<double>(middle, coupling, hidden, head), forms, n, outs);
  } else {
    run(candidates_of<float>(middle, coupling, hidden, head), forms, n, outs);
  }
  return result;
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CPU, m) {
  m.impl("quadratic_forms", TORCH_BOX(&fishermask::quadratic_forms_cpu));
}
