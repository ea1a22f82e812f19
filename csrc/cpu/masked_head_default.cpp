#define FISHERMASK_UNIT FISHERMASK_PORTABLE
#include "masked_head_kernel.inl"
