// masked_head_gram and masked_head_forms on the CPU: classes are shared among threads, and not
// samples, so that a sum does not depend on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <vector>

#include "masked_head_kernel.h"

namespace fishermask {
namespace {

using torch::stable::Tensor;

const double* numbers(const Tensor& tensor) {
  return static_cast<const double*>(tensor.const_data_ptr());
}

// A class has the more work the later it stands; first and last alternate, so that equal shares of
// the order are equal shares of the work.
int64_t class_at(int64_t place, int64_t classes) {
  return place % 2 == 0 ? place / 2 : classes - 1 - place / 2;
}

void gram_cpu(Tensor coupling, Tensor hidden, Tensor starts, Tensor total) {
  const int64_t* from = static_cast<const int64_t*>(starts.const_data_ptr());
  const MaskedHead head{numbers(coupling), numbers(hidden), from,          coupling.size(0),
                        coupling.size(1),  hidden.size(0),  hidden.size(1)};
  int64_t widest = 0;
  for (int64_t c = 0; c < head.c; ++c) widest = std::max(widest, from[c + 1] - from[c]);
  double* out = static_cast<double*>(total.mutable_data_ptr());
  torch::stable::parallel_for(0, head.c, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> work(static_cast<size_t>((widest + 1) * head.n));
    for (int64_t place = begin; place < end; ++place) {
      FISHERMASK_DISPATCH(gram, head, class_at(place, head.c), work.data(), out);
    }
  });
}

Tensor forms_cpu(Tensor hidden, Tensor starts, Tensor matrix) {
  const int64_t classes = starts.size(0) - 1, n = hidden.size(1);
  Tensor result = torch::stable::new_zeros(hidden, {classes, classes, n});
  const MaskedHead head{nullptr,
                        numbers(hidden),
                        static_cast<const int64_t*>(starts.const_data_ptr()),
                        classes,
                        0,
                        hidden.size(0),
                        n};
  double* out = static_cast<double*>(result.mutable_data_ptr());
  torch::stable::parallel_for(0, classes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; ++place) {
      const int64_t of_class = class_at(place, classes);
      FISHERMASK_DISPATCH(forms, head, numbers(matrix), of_class, out + of_class * classes * n);
    }
  });
  return result;
}

}  // namespace
}  // namespace fishermask

STABLE_TORCH_LIBRARY_IMPL(fishermask_fast, CPU, m) {
  m.impl("masked_head_gram", TORCH_BOX(&fishermask::gram_cpu));
  m.impl("masked_head_forms", TORCH_BOX(&fishermask::forms_cpu));
}
