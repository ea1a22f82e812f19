// The geometry of a weight gradient from the tensors of its op.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "common/weight_geometry.h"

namespace fishermask {

// input: (N, C_in, H, W), padded; delta: (N, C_out, Y, X).
inline WeightGeometry conv2d_geometry(const torch::stable::Tensor& input,
                                      const torch::stable::Tensor& delta,
                                      const std::vector<int64_t>& kernel,
                                      const std::vector<int64_t>& stride,
                                      const std::vector<int64_t>& dilation, int64_t groups) {
  WeightGeometry geometry{};
  geometry.n = delta.size(0);
  geometry.groups = groups;
  geometry.n_o = delta.size(1) / groups;
  geometry.channels = input.size(1) / groups;
  geometry.taps_y = kernel[0];
  geometry.taps_x = kernel[1];
  geometry.height = delta.size(2);
  geometry.width = delta.size(3);
  geometry.input_n = input.stride(0);
  geometry.input_c = input.stride(1);
  geometry.tap_step_y = dilation[0] * input.stride(2);
  geometry.tap_step_x = dilation[1] * input.stride(3);
  geometry.position_step_y = stride[0] * input.stride(2);
  geometry.position_step_x = stride[1] * input.stride(3);
  geometry.delta_n = delta.stride(0);
  geometry.delta_o = delta.stride(1);
  geometry.delta_y = delta.stride(2);
  geometry.delta_x = delta.stride(3);
  return geometry;
}

// input: (N, T, C_in); delta: (N, T, C_out).
inline WeightGeometry linear_geometry(const torch::stable::Tensor& input,
                                      const torch::stable::Tensor& delta) {
  WeightGeometry geometry{};
  geometry.n = delta.size(0);
  geometry.groups = 1;
  geometry.n_o = delta.size(2);
  geometry.channels = input.size(2);
  geometry.taps_y = geometry.taps_x = 1;
  geometry.height = 1;
  geometry.width = delta.size(1);
  geometry.input_n = input.stride(0);
  geometry.input_c = input.stride(2);
  geometry.position_step_x = input.stride(1);
  geometry.delta_n = delta.stride(0);
  geometry.delta_o = delta.stride(2);
  geometry.delta_x = delta.stride(1);
  return geometry;
}

}  // namespace fishermask
