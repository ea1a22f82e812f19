// pick_block's tensors, made on the device of its arguments, and the pointers to them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <tuple>

#include "common/pick_body.h"

namespace fishermask {

using PickResult = std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
                              torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
                              torch::stable::Tensor, torch::stable::Tensor>;

class PickTensors {
 public:
  PickTensors(const torch::stable::Tensor& e, const torch::stable::Tensor& h,
              const torch::stable::Tensor& setup_traces, int64_t rows, int64_t size, int64_t sign,
              double reach) {
    using torch::headeronly::ScalarType;
    using torch::stable::new_empty;
    using torch::stable::new_zeros;
    const int64_t m = setup_traces.numel(), packed = rows * (rows + 1) / 2;
    slots_ = new_empty(e, {size}, ScalarType::Long);
    taken_ = new_zeros(e, {m}, ScalarType::Long);
    scores_ = new_empty(e, {size});
    runners_up_ = new_empty(e, {size});
    losses_ = new_empty(e, {size});
    x_ = new_empty(e, {size, rows, rows});
    k_ = new_empty(e, {size, rows, rows});
    n_ = new_zeros(e, {size * rows, size * rows});
    q_ = new_zeros(e, {size * rows, size * rows});
    a_ = new_empty(e, {m, packed});
    b_ = new_empty(e, {m, packed});
    before_ = new_empty(e, {m});
    leader_scores_ = new_empty(e, {m});
    p_ = new_empty(e, {size, m, rows, rows});
    r_products_ = new_empty(e, {size, m, rows, rows});
    block = {static_cast<const double*>(e.const_data_ptr()),
             static_cast<const double*>(h.const_data_ptr()),
             static_cast<const double*>(setup_traces.const_data_ptr()),
             static_cast<int>(m),
             static_cast<int>(rows),
             static_cast<int>(size),
             static_cast<double>(sign),
             reach,
             static_cast<int64_t*>(slots_.mutable_data_ptr()),
             numbers(scores_),
             numbers(runners_up_),
             numbers(losses_),
             numbers(x_),
             numbers(n_),
             numbers(q_),
             numbers(a_),
             numbers(b_),
             numbers(before_),
             numbers(leader_scores_),
             numbers(p_),
             numbers(r_products_),
             numbers(k_),
             static_cast<int64_t*>(taken_.mutable_data_ptr())};
  }

  PickResult result() const { return {slots_, scores_, runners_up_, losses_, x_, n_, q_, before_}; }

  PickBlock block;

 private:
  static double* numbers(const torch::stable::Tensor& tensor) {
    return static_cast<double*>(tensor.mutable_data_ptr());
  }

  torch::stable::Tensor slots_, taken_, scores_, runners_up_, losses_, x_, k_, n_, q_, a_, b_;
  torch::stable::Tensor before_, leader_scores_, p_, r_products_;
};

}  // namespace fishermask
