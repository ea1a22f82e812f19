#define FISHERMASK_UNIT FISHERMASK_PORTABLE
#include "score_update_kernel.inl"
