#define FISHERMASK_UNIT FISHERMASK_PORTABLE
#include "inverse_products_kernel.inl"
