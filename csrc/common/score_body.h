// The part of score_update that follows the wide products: T updates of one candidate's A and B,
// and its scores between them.
#pragma once

#include "common/lane_matrix.h"

namespace fishermask {

// More updates than this are taken in several passes, so that a kernel's arguments hold them.
constexpr int kMaxUpdates = 64;

// T updates; columns of all U side by side, `total` of them, and of all W after those.
struct UpdateColumns {
  int count, total, max_rank;
  int first[kMaxUpdates];
  int rank[kMaxUpdates];
};

// Products of consecutive candidates with the columns; V_x [U W] = middle + coupling inner.
template <typename Stored, typename T>
struct Products {
  const T* middle;         // (count, r, 2 total), null where there is nothing outside the head
  const T* inner;          // (count, c, 2 total), null without a head
  const Stored* coupling;  // (count, r, c)
  int r, c;
};

// Numbers of working memory that update_candidate needs: doubles, and entries of the products.
FISHERMASK_BOTH constexpr int work_doubles(int r) { return 2 * packed_size(r); }
FISHERMASK_BOTH constexpr int work_products(int r, int max_rank) { return 2 * r * max_rank; }

// [P R] of update t of candidate x as (r, 2 rank).
template <typename Lanes, typename Stored, typename T>
FISHERMASK_LANES void stage(const Lanes& lanes, const Products<Stored, T>& products,
                            const UpdateColumns& columns, int t, int64_t x, T* staged) {
  const int rank = columns.rank[t], width = 2 * rank;
  const int64_t across = 2 * static_cast<int64_t>(columns.total);
  for (int e = lanes.rank(); e < products.r * width; e += lanes.size()) {
    const int i = e / width, q = e - i * width;
    const int from = columns.first[t] + (q < rank ? q : q - rank + columns.total);
    const int64_t row = x * products.r + i;
    T sum = products.middle == nullptr ? T(0) : products.middle[row * across + from];
    if (products.inner != nullptr) {
      const Stored* coupling = products.coupling + row * products.c;
      const T* inner = products.inner + x * products.c * across + from;
      for (int c = 0; c < products.c; ++c) sum += static_cast<T>(coupling[c]) * inner[c * across];
    }
    staged[e] = sum;
  }
  lanes.sync();
}

// Takes all updates of candidate x, whose A, B and score are given; history[t * step] becomes the
// score before update t. Returns the score after the last.
template <typename Lanes, typename Stored, typename T>
FISHERMASK_LANES double update_candidate(const Lanes& lanes, const Products<Stored, T>& products,
                                         const UpdateColumns& columns, int64_t x, double* a,
                                         double* b, double score, double* history, int64_t step,
                                         double* work, T* staged) {
  const int r = products.r;
  double* copy_of_a = work;
  double* copy_of_b = work + packed_size(r);
  for (int t = 0; t < columns.count; ++t) {
    if (lanes.rank() == 0) history[t * step] = score;
    stage(lanes, products, columns, t, x, staged);
    subtract_products(lanes, r, columns.rank[t], staged, staged + columns.rank[t],
                      2 * columns.rank[t], a, b, copy_of_a, copy_of_b);
    score = trace_by_elimination(lanes, r, copy_of_a, copy_of_b);
  }
  if (columns.count == 0) {
    subtract_products(lanes, r, 0, staged, staged, 0, a, b, copy_of_a, copy_of_b);
    score = trace_by_elimination(lanes, r, copy_of_a, copy_of_b);
  }
  return score;
}

// What the scores before one update came to, over the candidates seen so far; NaN counts as none.
struct Winner {
  double best;    // the largest score
  int64_t index;  // its lowest index
  int64_t first;  // the lowest index whose score reaches the threshold

  FISHERMASK_BOTH void see(double score, int64_t candidate, double threshold) {
    if (score > best || (score == best && candidate < index)) {
      best = score;
      index = candidate;
    }
    if (score >= threshold && candidate < first) first = candidate;
  }

  FISHERMASK_BOTH void merge(const Winner& other) {
    if (other.best > best || (other.best == best && other.index < index)) {
      best = other.best;
      index = other.index;
    }
    if (other.first < first) first = other.first;
  }
};

}  // namespace fishermask
