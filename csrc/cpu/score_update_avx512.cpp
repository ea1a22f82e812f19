#include "isa.h"
#if FISHERMASK_X86
#define FISHERMASK_UNIT FISHERMASK_AVX512
#include "score_update_kernel.inl"
#endif
