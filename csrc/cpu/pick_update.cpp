// pick_update on the CPU: the r x r work of a pick, between products of length k.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "inverse_products_kernel.h"

namespace fishermask {
namespace {

using torch::stable::Tensor;

constexpr double kNone = -std::numeric_limits<double>::infinity();

// The lower triangle of L with L L^T = shift I + factor K, from the lower triangle of K (r, r);
// false where that is not positive definite.
bool cholesky(const std::vector<double>& k, int64_t r, double shift, double factor,
              std::vector<double>& l) {
  for (int64_t i = 0; i < r; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = factor * k[i * r + j] + (i == j ? shift : 0.0);
      for (int64_t m = 0; m < j; ++m) sum -= l[i * r + m] * l[j * r + m];
      if (j < i) {
        l[i * r + j] = sum / l[j * r + j];
      } else if (sum > 0.0) {
        l[i * r + i] = std::sqrt(sum);
      } else {
        return false;
      }
    }
  }
  return true;
}

// X = L^-1 for lower triangular L, with zeros above the diagonal.
void invert(const std::vector<double>& l, int64_t r, std::vector<double>& x) {
  std::fill(x.begin(), x.end(), 0.0);
  for (int64_t i = 0; i < r; ++i) {
    double* row = x.data() + i * r;
    row[i] = 1.0;
    for (int64_t m = 0; m < i; ++m) {
      for (int64_t j = 0; j <= m; ++j) row[j] -= l[i * r + m] * x[m * r + j];
    }
    for (int64_t j = 0; j <= i; ++j) row[j] /= l[i * r + i];
  }
}

// Out of K and H, both (r, r): X with X A X^T = I, A = I +- K, and Q = -+ X H X^T X / 2. Returns
// the score, which is none where a direction may change nothing.
double small_matrices(const std::vector<double>& k, const std::vector<double>& h, int64_t r,
                      double sign, double negligible, std::vector<double>& x,
                      std::vector<double>& q) {
  std::vector<double> l(static_cast<size_t>(r * r));
  double trace = 0.0;
  for (int64_t i = 0; i < r; ++i) trace += k[i * (r + 1)];
  const double least = std::max(negligible, 1e-15 * trace);
  if (!cholesky(k, r, -least, 1.0, l) || !cholesky(k, r, 1.0, sign, l)) return kNone;
  invert(l, r, x);
  std::vector<double> half(static_cast<size_t>(r * r)), inner(static_cast<size_t>(r * r));
  for (int64_t i = 0; i < r; ++i) {
    for (int64_t m = 0; m <= i; ++m) {
      // K and H are symmetric but for rounding, which must not stay in W.
      for (int64_t j = 0; j < r; ++j) {
        half[i * r + j] += x[i * r + m] * 0.5 * (h[m * r + j] + h[j * r + m]);
      }
    }
  }
  double score = 0.0;
  for (int64_t i = 0; i < r; ++i) {
    for (int64_t j = 0; j < r; ++j) {
      double sum = 0.0;
      for (int64_t m = 0; m <= j; ++m) sum += half[i * r + m] * x[j * r + m];
      inner[i * r + j] = sum;
    }
    score += sign * inner[i * (r + 1)];
  }
  std::fill(q.begin(), q.end(), 0.0);
  for (int64_t i = 0; i < r; ++i) {
    for (int64_t m = 0; m < r; ++m) {
      for (int64_t j = 0; j <= m; ++j) {
        q[i * r + j] -= 0.5 * sign * inner[i * r + m] * x[m * r + j];
      }
    }
  }
  return score;
}

std::tuple<Tensor, Tensor, Tensor> pick_update_cpu(Tensor rows, Tensor y, Tensor z, double sign,
                                                   double negligible) {
  const int64_t n = rows.size(0), r = rows.size(1), k = rows.size(2);
  Tensor u = torch::stable::new_zeros(rows, {n, r, k});
  Tensor w = torch::stable::new_zeros(rows, {n, r, k});
  Tensor scores = torch::stable::new_empty(rows, {n});
  const size_t square = static_cast<size_t>(r * r);
  std::vector<double> inner(square), of_f(square), x(square), q(square);
  for (int64_t at = 0; at < n; ++at) {
    const auto sample = [&](const Tensor& tensor) {
      return static_cast<const double*>(tensor.const_data_ptr()) + at * r * k;
    };
    const double *v = sample(rows), *of_y = sample(y), *of_z = sample(z);
    torch::stable::parallel_for(0, r, 4, [&](int64_t begin, int64_t end) {
      FISHERMASK_DISPATCH(outer_products, of_y, v, r, k, r, begin, end, inner.data());
      FISHERMASK_DISPATCH(outer_products, of_z, v, r, k, r, begin, end, of_f.data());
    });
    const double score = small_matrices(inner, of_f, r, sign, negligible, x, q);
    static_cast<double*>(scores.mutable_data_ptr())[at] = score;
    if (score == kNone) continue;
    double* to_u = static_cast<double*>(u.mutable_data_ptr()) + at * r * k;
    double* to_w = static_cast<double*>(w.mutable_data_ptr()) + at * r * k;
    torch::stable::parallel_for(0, k, 256, [&](int64_t begin, int64_t end) {
      FISHERMASK_DISPATCH(add_updates, x.data(), q.data(), of_y, of_z, r, r, k, begin, end, to_u,
                          to_w);
    });
  }
  return {u, w, scores};
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CPU, m) {
  m.impl("pick_update", TORCH_BOX(&fishermask::pick_update_cpu));
}
