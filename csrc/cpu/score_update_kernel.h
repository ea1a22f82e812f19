// The torch-free body of score_update: T rank updates of A and B, and the scores between them.
#pragma once

#include <cstdint>
#include <vector>

#include "candidates.h"
#include "isa.h"

namespace fishermask {

// Consecutive updates whose products with V are taken together: columns [U_t W_t] of each in turn.
template <typename Compute>
struct UpdateGroup {
  int begin, end;         // of T
  int columns;            // 2 ranks[t] of each
  const Compute* middle;  // (m, columns)
  const Compute* head;    // (masked entries of the head, columns)
};

// T updates.
template <typename Compute>
struct Updates {
  std::vector<int> ranks;
  std::vector<UpdateGroup<Compute>> groups;
  const double* thresholds;  // (T,)
  int most_columns;          // of a group
};

// The state of all candidates, changed in place; A and B as packed lower triangles.
struct ScoreState {
  double* a;       // (N, r (r + 1) / 2)
  double* b;       // (N, r (r + 1) / 2)
  double* scores;  // (N,)
};

// What the scores before each update came to, over the candidates seen so far.
struct Beaten {
  explicit Beaten(int n_updates, int64_t none)
      : best(n_updates, -1.0 / 0.0), best_index(n_updates, none), first_index(n_updates, none) {}
  void merge(const Beaten& other);

  std::vector<double> best;          // the largest score
  std::vector<int64_t> best_index;   // its lowest index
  std::vector<int64_t> first_index;  // the lowest index whose score reaches the threshold
};

// Brings the candidates index[0..n) up to date and adds what it saw to `beaten`.
#define FISHERMASK_SCORE_UPDATE(Stored, Compute)                                              \
  FISHERMASK_DECLARE(void score_update(const Candidates<Stored>& candidates,                  \
                                       const Updates<Compute>& updates, const int64_t* index, \
                                       int64_t n, const ScoreState& state, Beaten& beaten))
FISHERMASK_SCORE_UPDATE(float, float)
FISHERMASK_SCORE_UPDATE(float, double)
FISHERMASK_SCORE_UPDATE(double, double)
#undef FISHERMASK_SCORE_UPDATE

}  // namespace fishermask
