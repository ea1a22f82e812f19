#include "isa.h"
#if FISHERMASK_X86
#define FISHERMASK_UNIT FISHERMASK_AVX512
#include "quadratic_forms_kernel.inl"
#endif
