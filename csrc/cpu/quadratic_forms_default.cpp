#define FISHERMASK_UNIT FISHERMASK_PORTABLE
#include "quadratic_forms_kernel.inl"
