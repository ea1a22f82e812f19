// Closes what simd_begin.h opened, so that templates instantiated at the end of the unit are
// compiled for the portable instruction set again.
}  // namespace fishermask::FISHERMASK_NAMESPACE

#ifdef FISHERMASK_TARGET
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef FISHERMASK_EXPAND_PRAGMA
#undef FISHERMASK_PRAGMA
#undef FISHERMASK_TARGET
#endif
#undef FISHERMASK_VECTOR_BYTES
#undef FISHERMASK_NAMESPACE
