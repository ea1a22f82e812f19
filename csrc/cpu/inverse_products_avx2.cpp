#include "isa.h"
#if FISHERMASK_X86
#define FISHERMASK_UNIT FISHERMASK_AVX2
#include "inverse_products_kernel.inl"
#endif
