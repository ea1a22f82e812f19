// The gradients of many samples as the kernels take them.
#pragma once

#include <cstdint>

namespace fishermask {

// The factors V of all candidates, row-major; coupling and hidden are null without a head, and
// inputs is null where the whole head is masked.
template <typename Stored>
struct Candidates {
  const Stored* middle;    // (N, r, m)
  const Stored* coupling;  // (N, r, c)
  const Stored* hidden;    // (N, d)
  const int* inputs;       // the input j of each masked entry of the head, by class
  const int64_t* starts;   // (c + 1,) where the entries of each class start among the masked
  int r, m, c, d;
};

}  // namespace fishermask
