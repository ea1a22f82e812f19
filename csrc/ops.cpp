// The schemas of every op, in one place. An implementation registers itself for its device beside
// its kernel (csrc/cpu/<op>.cpp, csrc/cuda/<op>.cu); argument checks live in
// fishermask_fast/ops.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fishermask_fast, m) {}
