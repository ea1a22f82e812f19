#include "isa.h"
#if FISHERMASK_X86
#define FISHERMASK_UNIT FISHERMASK_AVX2
#include "quadratic_forms_kernel.inl"
#endif
