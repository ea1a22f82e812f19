#define FISHERMASK_UNIT FISHERMASK_PORTABLE
#include "weight_gradient_kernel.inl"
