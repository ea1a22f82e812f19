// Candidates from the tensors of GradientFactors.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "candidates.h"

namespace fishermask {

// The masked entries of the head by class: a sorted index of c * d + j, or all of them.
struct MaskedEntries {
  MaskedEntries(const std::optional<torch::stable::Tensor>& index,
                const std::optional<torch::stable::Tensor>& coupling,
                const std::optional<torch::stable::Tensor>& hidden) {
    const int64_t classes = coupling.has_value() ? coupling->size(2) : 0;
    const int64_t width = coupling.has_value() ? hidden->size(1) : 0;
    starts.resize(static_cast<size_t>(classes) + 1);
    if (!index.has_value()) {
      for (int64_t c = 0; c <= classes; ++c) starts[c] = c * width;
      return;
    }
    const int64_t* positions = static_cast<const int64_t*>(index->const_data_ptr());
    const int64_t* end = positions + index->numel();
    for (int64_t c = 0; c <= classes; ++c) {
      starts[c] = std::lower_bound(positions, end, c * width) - positions;
    }
    inputs.reserve(static_cast<size_t>(index->numel()));
    for (const int64_t* at = positions; at != end; ++at) {
      inputs.push_back(static_cast<int>(*at % width));
    }
  }

  int64_t size() const { return starts.back(); }

  std::vector<int> inputs;
  std::vector<int64_t> starts;
};

template <typename Stored>
Candidates<Stored> candidates_of(const torch::stable::Tensor& middle,
                                 const std::optional<torch::stable::Tensor>& coupling,
                                 const std::optional<torch::stable::Tensor>& hidden,
                                 const MaskedEntries& head) {
  Candidates<Stored> candidates{};
  candidates.middle = static_cast<const Stored*>(middle.const_data_ptr());
  candidates.r = static_cast<int>(middle.size(1));
  candidates.m = static_cast<int>(middle.size(2));
  if (coupling.has_value()) {
    candidates.coupling = static_cast<const Stored*>(coupling->const_data_ptr());
    candidates.hidden = static_cast<const Stored*>(hidden->const_data_ptr());
    candidates.c = static_cast<int>(coupling->size(2));
    candidates.d = static_cast<int>(hidden->size(1));
    candidates.inputs = head.inputs.empty() ? nullptr : head.inputs.data();
    candidates.starts = head.starts.data();
  }
  return candidates;
}

}  // namespace fishermask
