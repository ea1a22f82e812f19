#include "isa.h"
#if FISHERMASK_X86
#define FISHERMASK_UNIT FISHERMASK_AVX2
#include "masked_head_kernel.inl"
#endif
