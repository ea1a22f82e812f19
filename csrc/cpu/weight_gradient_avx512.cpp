#include "isa.h"
#if FISHERMASK_X86
#define FISHERMASK_UNIT FISHERMASK_AVX512
#include "weight_gradient_kernel.inl"
#endif
