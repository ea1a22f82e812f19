// inverse_products on the CPU. Each triangle is dealt out in a fixed number of parts, whose results
// are added in order: how many threads there are changes no rounding.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "inverse_products_kernel.h"

namespace fishermask {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Into how many parts a triangle of k rows is dealt: few, as each has sums of its own.
int64_t parts_of(int64_t k) { return k < 4096 ? 2 : 16; }

// Where part p of them starts, at a multiple of the four rows taken together.
int64_t part_start(int64_t p, int64_t parts, int64_t k) {
  if (p == parts) return k;
  const double share = std::sqrt(static_cast<double>(p) / static_cast<double>(parts));
  return static_cast<int64_t>(share * static_cast<double>(k)) / 4 * 4;
}

const double* data(const Tensor& tensor) {
  return static_cast<const double*>(tensor.const_data_ptr());
}

double* mutable_data(Tensor& tensor) { return static_cast<double*>(tensor.mutable_data_ptr()); }

// Numbers [at, at + n) of a float32 or float64 tensor, times `scale`.
std::vector<double> scaled(const Tensor& tensor, int64_t at, int64_t n, double scale) {
  std::vector<double> out(static_cast<size_t>(n));
  const auto copy = [&](const auto* from) {
    std::transform(from + at, from + at + n, out.begin(),
                   [scale](auto value) { return scale * static_cast<double>(value); });
  };
  if (tensor.scalar_type() == ScalarType::Double) {
    copy(static_cast<const double*>(tensor.const_data_ptr()));
  } else {
    copy(static_cast<const float*>(tensor.const_data_ptr()));
  }
  return out;
}

// The gradients of all samples, of which one at a time is taken apart.
class Samples {
 public:
  Samples(const Tensor& middle, const std::optional<Tensor>& coupling,
          const std::optional<Tensor>& hidden, const std::optional<Tensor>& head_index,
          double scale, int64_t k)
      : middle_(middle), coupling_(coupling), hidden_(hidden), scale_(scale) {
    rows_.r = middle.size(1);
    rows_.m = middle.size(2);
    rows_.k = k;
    if (!coupling.has_value()) return;
    rows_.c = coupling->size(2);
    const int64_t d = hidden->size(1);
    const int64_t* places = head_index.has_value()
                                ? static_cast<const int64_t*>(head_index->const_data_ptr())
                                : nullptr;
    for (int64_t at = 0; at < k - rows_.m; ++at) {
      const int64_t place = places == nullptr ? at : places[at];
      while (static_cast<int64_t>(starts_.size()) <= place / d) starts_.push_back(rows_.m + at);
      inputs_.push_back(place % d);
    }
    starts_.resize(static_cast<size_t>(rows_.c + 1), k);
    masked_.resize(inputs_.size());
  }

  // Sample `index`, valid until the next call; writes V_x (r, k) to `dense`.
  const SampleRows& take(int64_t index, double* dense) {
    const int64_t r = rows_.r, m = rows_.m, c = rows_.c;
    own_middle_ = scaled(middle_, index * r * m, r * m, scale_);
    rows_.middle = own_middle_.data();
    for (int64_t row = 0; row < r; ++row) {
      std::copy_n(rows_.middle + row * m, m, dense + row * rows_.k);
    }
    if (!coupling_.has_value()) return rows_;
    own_coupling_ = scaled(*coupling_, index * r * c, r * c, scale_);
    const int64_t d = hidden_->size(1);
    const std::vector<double> hidden = scaled(*hidden_, index * d, d, 1.0);
    for (size_t at = 0; at < inputs_.size(); ++at) masked_[at] = hidden[inputs_[at]];
    rows_.coupling = own_coupling_.data();
    rows_.hidden = masked_.data();
    rows_.starts = starts_.data();
    for (int64_t row = 0; row < r; ++row) {
      for (int64_t own = 0; own < c; ++own) {
        const double factor = rows_.coupling[row * c + own];
        for (int64_t at = starts_[own]; at < starts_[own + 1]; ++at) {
          dense[row * rows_.k + at] = factor * masked_[at - m];
        }
      }
    }
    return rows_;
  }

 private:
  const Tensor& middle_;
  const std::optional<Tensor>&coupling_, &hidden_;
  const double scale_;
  SampleRows rows_{};
  std::vector<int64_t> inputs_, starts_;  // of the masked places of the head: j, and by class
  std::vector<double> own_middle_, own_coupling_, masked_;
};

std::tuple<Tensor, Tensor, Tensor> inverse_products_cpu(
    Tensor middle, std::optional<Tensor> coupling, std::optional<Tensor> hidden,
    std::optional<Tensor> head_index, Tensor index, Tensor first, Tensor second, Tensor u, Tensor w,
    double scale, double sign) {
  const int64_t n = index.numel(), r = middle.size(1), k = first.size(0), h = u.size(0);
  const int64_t parts = parts_of(k), size = r * k;
  const int64_t* indices = static_cast<const int64_t*>(index.const_data_ptr());
  Samples samples(middle, coupling, hidden, head_index, scale, k);
  Tensor rows = torch::stable::new_empty(first, {n, r, k});
  Tensor y = torch::stable::new_empty(first, {n, r, k});
  Tensor z = torch::stable::new_empty(first, {n, r, k});
  const Tensor* matrices[2] = {&first, &second};
  const int64_t wide = size + (coupling.has_value() ? coupling->size(2) * k : 0);
  const auto sums = std::make_unique_for_overwrite<double[]>(static_cast<size_t>(2 * parts * wide));
  std::vector<double> products(static_cast<size_t>(2 * r * h));
  double* p = products.data();
  double* q = p + r * h;

  for (int64_t at = 0; at < n; ++at) {
    double* dense = mutable_data(rows) + at * size;
    double* results[2] = {mutable_data(y) + at * size, mutable_data(z) + at * size};
    const SampleRows& v = samples.take(indices[at], dense);
    torch::stable::parallel_for(0, 2 * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const Tensor& matrix = *matrices[task / parts];
        const int64_t part = task % parts;
        double* sum = sums.get() + task * wide;
        std::fill(sum, sum + wide, 0.0);
        FISHERMASK_DISPATCH(symmetric_products, v, data(matrix), matrix.stride(0),
                            part_start(part, parts, k), part_start(part + 1, parts, k), sum,
                            sum + wide - size);
      }
    });
    torch::stable::parallel_for(0, h, 16, [&](int64_t begin, int64_t end) {
      FISHERMASK_DISPATCH(outer_products, dense, data(u), r, k, h, begin, end, p);
      FISHERMASK_DISPATCH(outer_products, dense, data(w), r, k, h, begin, end, q);
    });
    for (double& product : products) product *= -sign;
    torch::stable::parallel_for(0, k, 128, [&](int64_t begin, int64_t end) {
      for (int which = 0; which < 2; ++which) {
        FISHERMASK_DISPATCH(gather_products, v, sums.get() + which * parts * wide, parts, begin,
                            end, results[which]);
      }
      FISHERMASK_DISPATCH(add_updates, p, q, data(u), data(w), r, h, k, begin, end, results[0],
                          results[1]);
    });
  }
  return {rows, y, z};
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CPU, m) {
  m.impl("inverse_products", TORCH_BOX(&fishermask::inverse_products_cpu));
}
