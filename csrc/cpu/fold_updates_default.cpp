#define FISHERMASK_UNIT FISHERMASK_PORTABLE
#include "fold_updates_kernel.inl"
