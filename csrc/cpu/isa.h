// The instruction sets a kernel body is compiled for, and the choice among them at run time.
//
// One torch-free body, csrc/cpu/<op>_kernel.inl, is compiled by three units, <op>_default.cpp,
// <op>_avx2.cpp and <op>_avx512.cpp, each into a namespace of its own, so that the linker can never
// take one unit's inline function for another's. simd_begin.h opens such a body.
#pragma once

#include <string>

#define FISHERMASK_PORTABLE 0
#define FISHERMASK_AVX2 1
#define FISHERMASK_AVX512 2

#if defined(__x86_64__) && defined(__GNUC__)
#define FISHERMASK_X86 1
#else
#define FISHERMASK_X86 0
#endif

namespace fishermask {

enum class Isa {
  portable = FISHERMASK_PORTABLE,
  avx2 = FISHERMASK_AVX2,
  avx512 = FISHERMASK_AVX512
};

// The widest instruction set that this machine and its operating system can run.
Isa isa_of_machine();

// The instruction set the ops run with: the machine's, or a lower one named by the environment
// variable FISHERMASK_ISA when it is first asked for, or by set_isa. Throws std::invalid_argument
// when the variable names no instruction set.
Isa isa_in_use();

// Lowers the choice, or raises it again up to the machine's. For comparing instruction sets.
void set_isa(Isa isa);

Isa parse_isa(const std::string& name);  // throws std::invalid_argument
const char* isa_name(Isa isa);

}  // namespace fishermask

// FISHERMASK_DECLARE(void f(int n)) declares f once per instruction set;
// FISHERMASK_DISPATCH(f, n) calls the one in use.
#if FISHERMASK_X86
#define FISHERMASK_DECLARE(...) \
  namespace portable {          \
  __VA_ARGS__;                  \
  }                             \
  namespace avx2 {              \
  __VA_ARGS__;                  \
  }                             \
  namespace avx512 {            \
  __VA_ARGS__;                  \
  }
#define FISHERMASK_DISPATCH(function, ...)                    \
  [&] {                                                       \
    switch (::fishermask::isa_in_use()) {                     \
      case ::fishermask::Isa::avx512:                         \
        return ::fishermask::avx512::function(__VA_ARGS__);   \
      case ::fishermask::Isa::avx2:                           \
        return ::fishermask::avx2::function(__VA_ARGS__);     \
      default:                                                \
        return ::fishermask::portable::function(__VA_ARGS__); \
    }                                                         \
  }()
#else
#define FISHERMASK_DECLARE(...) \
  namespace portable {          \
  __VA_ARGS__;                  \
  }
#define FISHERMASK_DISPATCH(function, ...) ::fishermask::portable::function(__VA_ARGS__)
#endif
