// The torch-free body of the per-sample weight gradients of convolutions and linear layers:
//
//   dW[n, o, k] = sum_l delta[n, o, l] * input[n, k_offsets[k] + l_offsets[l]]
//
// A position l of the output and a weight k = (i, u, v) of one output channel meet in one element
// of the (padded) input, whose place is a sum of two offsets, whatever the strides and dilations.
#pragma once

#include <cstdint>

#include "isa.h"

namespace fishermask {

template <typename T>
struct WeightGradient {
  const T* input;
  int64_t input_step;        // from sample to sample
  int64_t group_step;        // from group to group
  const int64_t* k_offsets;  // (n_k,) of the first group
  const int64_t* l_offsets;  // (n_l,)
  const int64_t* l_runs;     // (n_l,) how many positions from l on are neighbours, step by step
  const T* delta;
  int64_t delta_n, delta_o, delta_l;  // strides
  int64_t n, groups, n_o, n_k, n_l;   // n_o: output channels of one group
};

// Output channels of one register tile, given those of a group, and weights k of one.
struct Tile {
  int64_t width, depth;
};

// pack_delta:     delta of samples [begin, end) as (n, group, block of channels, l, width), the
//                 channels of the last block filled up with zeros.
// sum_of_squares: sums over all samples of dW^2, (group, o, k), for tiles [begin, end) of all,
//                 counted as (group, block of channels, block of k).
// entries:        dW of samples [begin, end) at the sorted flat positions
//                 index = (o of all groups) n_k + k, (n, n_index).
#define FISHERMASK_WEIGHT_GRADIENT(T)                                                           \
  FISHERMASK_DECLARE(                                                                           \
      Tile tile_of(const WeightGradient<T>& problem);                                           \
      void pack_delta(const WeightGradient<T>& problem, int64_t begin, int64_t end, T* packed); \
      void sum_of_squares(const WeightGradient<T>& problem, const T* packed, int64_t begin,     \
                          int64_t end, T* result);                                              \
      void entries(const WeightGradient<T>& problem, const int64_t* index, int64_t n_index,     \
                   int64_t least_for_tile, int64_t begin, int64_t end, T* result))
FISHERMASK_WEIGHT_GRADIENT(float)
FISHERMASK_WEIGHT_GRADIENT(double)
#undef FISHERMASK_WEIGHT_GRADIENT

}  // namespace fishermask
