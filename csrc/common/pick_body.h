// pick_block's steps on the inner products of m leaders among themselves; nothing here has the
// length k of a gradient. With E_ab = V_a M^-1 V_b^T and H_ab = V_a G V_b^T, r x r each, leader a
// keeps A_a = I +- E_aa and B_a = +- H_aa. When s is picked,
//
//   A_s = L L^T,  X = L^-1,  K = X H_ss X^T,  U^T = X Y_s,  W^T = X Z_s -+ K U^T / 2
//   P_a = V_a U = E_as X^T,   R_a = V_a W = H_as X^T -+ P_a K / 2
//   A_a <- A_a - P_a P_a^T,   B_a <- B_a - P_a R_a^T - R_a P_a^T
//
// and E_as, H_as themselves are formed only for the pick s, from the P_i and R_i before it:
//
//   E_as <- E_as -+ sum_i P_i,a P_i,s^T,   H_as <- H_as -+ sum_i (P_i,a R_i,s^T + R_i,a P_i,s^T)
#pragma once

#include "common/lane_matrix.h"

namespace fishermask {

// Pointers to everything that the steps read and write, all of it float64 unless said.
struct PickBlock {
  const double* e;             // (m r, m r)
  const double* h;             // (m r, m r)
  const double* setup_traces;  // (m,)
  int m, r, size;
  double sign, reach;
  int64_t* slots;         // (T,) the pick's place among the leaders
  double* scores;         // (T,)
  double* runners_up;     // (T,) the best score beside the pick's
  double* losses;         // (T,)
  double* x;              // (T, r, r)
  double* n;              // (T r, T r), zero at first
  double* q;              // (T r, T r), zero at first
  double* a;              // (m, r (r + 1) / 2)
  double* b;              // (m, r (r + 1) / 2)
  double* before;         // (m,) every leader's score before the first pick
  double* leader_scores;  // (m,)
  double* p;              // (T, m, r, r)
  double* r_products;     // (T, m, r, r)
  double* k;              // (T, r, r)
  int64_t* taken;         // (m,), zero at first
};

FISHERMASK_BOTH constexpr int64_t follow_work(int r) {
  return 4 * static_cast<int64_t>(r) * r + 2 * packed_size(r);
}
FISHERMASK_BOTH constexpr int64_t choose_work(int m, int r, int lanes) {
  return static_cast<int64_t>(m) + 4 * lanes + static_cast<int64_t>(r) * r + 2 * packed_size(r);
}

FISHERMASK_LANES double* block_of(double* products, const PickBlock& block, int t, int leader) {
  return products + (static_cast<int64_t>(t) * block.m + leader) * block.r * block.r;
}

// A, B and score of a leader before the first pick.
template <typename Lanes>
FISHERMASK_LANES void begin_leader(const Lanes& lanes, const PickBlock& block, int leader,
                                   double* work) {
  const int r = block.r, size = packed_size(r);
  double* a = block.a + static_cast<int64_t>(leader) * size;
  double* b = block.b + static_cast<int64_t>(leader) * size;
  const int64_t across = static_cast<int64_t>(block.m) * r;
  const int64_t corner = leader * r * (across + 1);
  for (int at = lanes.rank(); at < size; at += lanes.size()) {
    const int i = packed_row(at), k = at - packed_at(i, 0);
    const int64_t one = corner + i * across + k, other = corner + k * across + i;
    a[at] = (i == k ? 1.0 : 0.0) + block.sign * 0.5 * (block.e[one] + block.e[other]);
    b[at] = block.sign * 0.5 * (block.h[one] + block.h[other]);
    work[at] = a[at];
    work[size + at] = b[at];
  }
  lanes.sync();
  const double score = trace_by_elimination(lanes, r, work, work + size);
  if (lanes.rank() == 0) block.leader_scores[leader] = block.before[leader] = score;
}

// The best of some leaders, the lowest slot among equals, and the best score beside it.
struct Best {
  double score = -INFINITY, second = -INFINITY;
  int slot = -1;

  FISHERMASK_BOTH void see(double other, double behind, int from) {
    if (from < 0) return;
    if (slot < 0 || other > score || (other == score && from < slot)) {
      second = slot < 0 || behind > score ? behind : score;
      score = other;
      slot = from;
    } else if (other > second) {
      second = other;
    }
  }
};

// The winner of pick t among the leaders not taken: its slot, written by lane 0 with what is told
// of it. A score that is no number makes the pick's none. `work`: m numbers, and four a lane.
template <typename Lanes>
FISHERMASK_LANES void find_winner(const Lanes& lanes, const PickBlock& block, int t, double* work) {
  double* losses = work;
  double* scores = losses + block.m;
  double* seconds = scores + lanes.size();
  double* slots = seconds + lanes.size();
  double* largest = slots + lanes.size();  // of the losses; at first whether all are numbers
  Best own;
  bool numbers = true;
  for (int leader = lanes.rank(); leader < block.m; leader += lanes.size()) {
    if (block.taken[leader] != 0) continue;
    const double* b = block.b + static_cast<int64_t>(leader) * packed_size(block.r);
    double trace = 0.0;
    for (int i = 0; i < block.r; ++i) trace += b[packed_at(i, i)];
    losses[leader] = block.setup_traces[leader] / fmax(fabs(trace), 1e-300);
    const double score = block.leader_scores[leader];
    numbers = numbers && score == score;
    own.see(score, -INFINITY, leader);
  }
  scores[lanes.rank()] = own.score;
  seconds[lanes.rank()] = own.second;
  slots[lanes.rank()] = own.slot;
  largest[lanes.rank()] = numbers ? 1.0 : 0.0;
  lanes.sync();
  Best best;
  for (int lane = 0; lane < lanes.size(); ++lane) {
    best.see(scores[lane], seconds[lane], static_cast<int>(slots[lane]));
    numbers = numbers && largest[lane] != 0.0;
  }
  lanes.sync();
  double loss = 0.0;
  for (int leader = lanes.rank(); leader < block.m; leader += lanes.size()) {
    if (block.taken[leader] != 0) continue;
    const double score = block.leader_scores[leader];
    if (score >= best.score - block.reach * fabs(best.score)) loss = fmax(loss, losses[leader]);
  }
  largest[lanes.rank()] = loss;
  lanes.sync();
  if (lanes.rank() != 0) return;
  for (int lane = 0; lane < lanes.size(); ++lane) loss = fmax(loss, largest[lane]);
  block.slots[t] = best.slot;
  block.taken[best.slot] = 1;
  block.scores[t] = numbers ? best.score : NAN;
  block.runners_up[t] = best.second;
  block.losses[t] = loss;
}

// Picks the best leader as the t-th, and works out its X and K, and rows t of N and Q:
// N_ti = X P_i,s and Q_ti = X R_i,s for i < t, and Q_tt = K / 2.
template <typename Lanes>
FISHERMASK_LANES void choose(const Lanes& lanes, const PickBlock& block, int t, double* work) {
  const int r = block.r, size = packed_size(r);
  find_winner(lanes, block, t, work);
  lanes.sync();
  const int s = static_cast<int>(block.slots[t]);
  double* lower = work + block.m + 4 * lanes.size();
  double* factor = lower + size;
  double* product = factor + size;
  const double* a = block.a + static_cast<int64_t>(s) * size;
  const double* b = block.b + static_cast<int64_t>(s) * size;
  for (int at = lanes.rank(); at < size; at += lanes.size()) lower[at] = a[at];
  lanes.sync();
  cholesky(lanes, r, lower, factor);
  double* x = block.x + static_cast<int64_t>(t) * r * r;
  invert_lower(lanes, r, factor, x);
  for (int at = lanes.rank(); at < r * r; at += lanes.size()) {
    const int i = at / r, j = at % r;
    double sum = 0.0;
    for (int m = 0; m <= i; ++m) sum += x[i * r + m] * b[m < j ? packed_at(j, m) : packed_at(m, j)];
    product[at] = block.sign * sum;
  }
  lanes.sync();
  double* k = block.k + static_cast<int64_t>(t) * r * r;
  const int64_t across = static_cast<int64_t>(block.size) * r;
  for (int at = lanes.rank(); at < r * r; at += lanes.size()) {
    const int i = at / r, j = at % r;
    double sum = 0.0;
    for (int m = 0; m <= j; ++m) sum += product[i * r + m] * x[j * r + m];
    k[at] = sum;
    block.q[(t * r + i) * across + t * r + j] = 0.5 * sum;
  }
  for (int at = lanes.rank(); at < t * r * r; at += lanes.size()) {
    const int before = at / (r * r), i = at / r % r, j = at % r;
    const double* p = block_of(block.p, block, before, s);
    const double* r_products = block_of(block.r_products, block, before, s);
    double of_n = 0.0, of_q = 0.0;
    for (int m = 0; m <= i; ++m) {
      of_n += x[i * r + m] * p[m * r + j];
      of_q += x[i * r + m] * r_products[m * r + j];
    }
    const int64_t to = (t * r + i) * across + before * r + j;
    block.n[to] = of_n;
    block.q[to] = of_q;
  }
}

// E_as and H_as as they stand at pick t, (r, r) each.
template <typename Lanes>
FISHERMASK_LANES void form_columns(const Lanes& lanes, const PickBlock& block, int t, int leader,
                                   int s, double* e_as, double* h_as) {
  const int r = block.r;
  const int64_t across = static_cast<int64_t>(block.m) * r;
  for (int at = lanes.rank(); at < r * r; at += lanes.size()) {
    const int i = at / r, j = at % r;
    double of_e = 0.0, of_h = 0.0;
    for (int before = 0; before < t; ++before) {
      const double* p_a = block_of(block.p, block, before, leader) + i * r;
      const double* p_s = block_of(block.p, block, before, s) + j * r;
      const double* r_a = block_of(block.r_products, block, before, leader) + i * r;
      const double* r_s = block_of(block.r_products, block, before, s) + j * r;
      for (int c = 0; c < r; ++c) {
        of_e += p_a[c] * p_s[c];
        of_h += p_a[c] * r_s[c] + r_a[c] * p_s[c];
      }
    }
    const int64_t from = (static_cast<int64_t>(leader) * r + i) * across + s * r + j;
    e_as[at] = block.e[from] - block.sign * of_e;
    h_as[at] = block.h[from] - block.sign * of_h;
  }
  lanes.sync();
}

// What pick t changes for one leader.
template <typename Lanes>
FISHERMASK_LANES void follow(const Lanes& lanes, const PickBlock& block, int t, int leader,
                             double* work) {
  if (block.taken[leader] != 0) return;
  const int r = block.r, size = packed_size(r);
  const int s = static_cast<int>(block.slots[t]);
  double* e_as = work;
  double* h_as = e_as + r * r;
  double* p = h_as + r * r;
  double* r_products = p + r * r;
  double* copies = r_products + r * r;
  form_columns(lanes, block, t, leader, s, e_as, h_as);
  const double* x = block.x + static_cast<int64_t>(t) * r * r;
  const double* k = block.k + static_cast<int64_t>(t) * r * r;
  for (int at = lanes.rank(); at < r * r; at += lanes.size()) {
    const int i = at / r, j = at % r;
    double of_p = 0.0, of_r = 0.0;
    for (int m = 0; m <= j; ++m) {
      of_p += e_as[i * r + m] * x[j * r + m];
      of_r += h_as[i * r + m] * x[j * r + m];
    }
    p[at] = of_p;
    r_products[at] = of_r;
  }
  lanes.sync();
  double* p_kept = block_of(block.p, block, t, leader);
  double* r_kept = block_of(block.r_products, block, t, leader);
  for (int at = lanes.rank(); at < r * r; at += lanes.size()) {
    const int i = at / r, j = at % r;
    double sum = 0.0;
    for (int m = 0; m < r; ++m) sum += p[i * r + m] * k[m * r + j];
    r_products[at] -= block.sign * 0.5 * sum;
    p_kept[at] = p[at];
    r_kept[at] = r_products[at];
  }
  lanes.sync();
  double* a = block.a + static_cast<int64_t>(leader) * size;
  double* b = block.b + static_cast<int64_t>(leader) * size;
  subtract_products(lanes, r, r, p, r_products, r, a, b, copies, copies + size);
  const double score = trace_by_elimination(lanes, r, copies, copies + size);
  if (lanes.rank() == 0) block.leader_scores[leader] = score;
}

}  // namespace fishermask
