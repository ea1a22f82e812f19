#include "isa.h"
#if FISHERMASK_X86
#define FISHERMASK_UNIT FISHERMASK_AVX512
#include "inverse_products_kernel.inl"
#endif
