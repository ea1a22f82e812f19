#include "isa.h"
#if FISHERMASK_X86
#define FISHERMASK_UNIT FISHERMASK_AVX2
#include "fold_updates_kernel.inl"
#endif
