// Where the operands of a weight gradient stand, for convolutions and linear layers alike, and the
// parts of it that GPU threads share out:
//
//   dW[n, o, k] = sum_l delta[n, o, l] * input[n, weight_offset(k) + position_offset(l)]
//
// A position l = (y, x) of the output and a weight k = (i, u, v) of one output channel meet in one
// element of the (padded) input. A linear layer has its tokens along x and one tap.
#pragma once

#include <cstdint>

#include "common/lane_matrix.h"

namespace fishermask {

struct WeightGeometry {
  int64_t n, groups, n_o, channels;  // samples, groups, output and input channels of one group
  int64_t taps_y, taps_x;
  int64_t height, width;                       // of the output
  int64_t input_n, input_c;                    // strides of the input by sample and channel,
  int64_t tap_step_y, tap_step_x;              // from tap to tap,
  int64_t position_step_y, position_step_x;    // and from position to position
  int64_t delta_n, delta_o, delta_y, delta_x;  // strides

  FISHERMASK_BOTH int64_t n_k() const { return channels * taps_y * taps_x; }
  FISHERMASK_BOTH int64_t n_l() const { return height * width; }
  FISHERMASK_BOTH int64_t numel() const { return groups * n_o * n_k(); }

  FISHERMASK_BOTH int64_t weight_offset(int64_t k) const {
    const int64_t taps = taps_y * taps_x, tap = k % taps;
    return k / taps * input_c + tap / taps_x * tap_step_y + tap % taps_x * tap_step_x;
  }
  FISHERMASK_BOTH int64_t position_offset(int64_t l) const {
    return l / width * position_step_y + l % width * position_step_x;
  }
  FISHERMASK_BOTH int64_t delta_offset(int64_t l) const {
    return l / width * delta_y + l % width * delta_x;
  }
};

// Positions l = first, first + step, ... as (y, x), without a division at each.
struct Positions {
  const WeightGeometry& geometry;
  int64_t y, x, step_y, step_x;

  FISHERMASK_BOTH Positions(const WeightGeometry& geometry, int64_t first, int64_t step)
      : geometry(geometry),
        y(first / geometry.width),
        x(first % geometry.width),
        step_y(step / geometry.width),
        step_x(step % geometry.width) {}

  FISHERMASK_BOTH bool more() const { return y < geometry.height; }
  FISHERMASK_BOTH void next() {
    y += step_y;
    x += step_x;
    if (x >= geometry.width) {
      x -= geometry.width;
      ++y;
    }
  }
  FISHERMASK_BOTH int64_t input() const {
    return y * geometry.position_step_y + x * geometry.position_step_x;
  }
  FISHERMASK_BOTH int64_t delta() const { return y * geometry.delta_y + x * geometry.delta_x; }
};

// One thread's share of dW[n] at a flat position of the weight, as one of `width` threads.
template <typename T>
FISHERMASK_BOTH T share_of_entry(const WeightGeometry& geometry, const T* input, const T* delta,
                                 int64_t n, int64_t position, int thread, int width) {
  const int64_t channel = position / geometry.n_k(), k = position % geometry.n_k();
  const T* x = input + n * geometry.input_n + geometry.weight_offset(k) +
               channel / geometry.n_o * geometry.channels * geometry.input_c;
  const T* d = delta + n * geometry.delta_n + channel * geometry.delta_o;
  T sum = 0;
  for (Positions l(geometry, thread, width); l.more(); l.next()) sum += x[l.input()] * d[l.delta()];
  return sum;
}

// A tile of sum_n dW^2 is 16 Channels output channels by 16 kTileWeights weights; each of 256 lanes
// keeps Channels by kTileWeights of its entries in registers.
constexpr int kTileSide = 16;
constexpr int kTileWeights = 4;
constexpr int kTilePositions = 16;  // whose operands are shared at a time

template <typename T, int Channels>
struct TileMemory {
  T delta[kTilePositions][kTileSide * Channels + 1];
  T input[kTilePositions][kTileSide * kTileWeights + 1];
};

template <int Channels>
FISHERMASK_BOTH int64_t tiles_wide(const WeightGeometry& geometry) {
  return (geometry.n_o + kTileSide * Channels - 1) / (kTileSide * Channels);
}
FISHERMASK_BOTH int64_t tiles_deep(const WeightGeometry& geometry) {
  return (geometry.n_k() + kTileSide * kTileWeights - 1) / (kTileSide * kTileWeights);
}

// Sums dW^2 of one tile, counted as (group, block of channels, block of weights), over the samples
// part, part + parts, ... and writes it to its place in result, (groups n_o, n_k).
template <typename Lanes, typename T, int Channels>
FISHERMASK_LANES void sum_squares_of_tile(const Lanes& lanes, const WeightGeometry& geometry,
                                          const T* input, const T* delta, int64_t tile,
                                          int64_t part, int64_t parts,
                                          TileMemory<T, Channels>& memory, T* result) {
  constexpr int kWide = kTileSide * Channels, kDeep = kTileSide * kTileWeights;
  const int64_t deep = tiles_deep(geometry), wide = tiles_wide<Channels>(geometry);
  const int64_t group = tile / deep / wide;
  const int64_t first_o = tile / deep % wide * kWide, first_k = tile % deep * kDeep;
  const int column = lanes.rank() % kTileSide, row = lanes.rank() / kTileSide;
  const int64_t n_l = geometry.n_l(), n_k = geometry.n_k();
  int64_t weights[kTileWeights];
  for (int j = 0; j < kTileWeights; ++j) {
    const int64_t k = first_k + row + j * kTileSide;
    weights[j] = group * geometry.channels * geometry.input_c +
                 geometry.weight_offset(k < n_k ? k : n_k - 1);
  }
  T total[Channels][kTileWeights] = {};
  for (int64_t n = part; n < geometry.n; n += parts) {
    const T* x = input + n * geometry.input_n;
    const T* d = delta + n * geometry.delta_n + group * geometry.n_o * geometry.delta_o;
    T sum[Channels][kTileWeights] = {};
    Positions l(geometry, column, kTilePositions);
    for (int64_t first_l = 0; first_l < n_l; first_l += kTilePositions, l.next()) {
      for (int i = 0; i < Channels; ++i) {
        const int64_t o = first_o + row + i * kTileSide;
        memory.delta[column][row + i * kTileSide] =
            l.more() && o < geometry.n_o ? d[o * geometry.delta_o + l.delta()] : T(0);
      }
      for (int j = 0; j < kTileWeights; ++j) {
        memory.input[column][row + j * kTileSide] = l.more() ? x[weights[j] + l.input()] : T(0);
      }
      lanes.sync();
      for (int at = 0; at < kTilePositions; ++at) {
        for (int i = 0; i < Channels; ++i) {
          const T value = memory.delta[at][row + i * kTileSide];
          for (int j = 0; j < kTileWeights; ++j) {
            sum[i][j] += value * memory.input[at][column + j * kTileSide];
          }
        }
      }
      lanes.sync();
    }
    for (int i = 0; i < Channels; ++i) {
      for (int j = 0; j < kTileWeights; ++j) total[i][j] += sum[i][j] * sum[i][j];
    }
  }
  for (int i = 0; i < Channels; ++i) {
    for (int j = 0; j < kTileWeights; ++j) {
      const int64_t o = first_o + row + i * kTileSide, k = first_k + column + j * kTileSide;
      if (o < geometry.n_o && k < n_k) result[(group * geometry.n_o + o) * n_k + k] = total[i][j];
    }
  }
}

}  // namespace fishermask
