#include "isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fishermask {
namespace {

Isa initial_isa() {
  const char* wanted = std::getenv("FISHERMASK_ISA");
  if (wanted == nullptr || *wanted == '\0') return isa_of_machine();
  try {
    return std::min(parse_isa(wanted), isa_of_machine());
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string("the environment variable FISHERMASK_ISA: ") +
                                error.what());
  }
}

std::atomic<Isa>& chosen_isa() {
  static std::atomic<Isa> isa{initial_isa()};
  return isa;
}

}  // namespace

Isa isa_of_machine() {
#if FISHERMASK_X86 && defined(FISHERMASK_EMULATE_AVX512)
  return Isa::avx512;
#elif FISHERMASK_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx2 && avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa isa_in_use() { return chosen_isa().load(std::memory_order_relaxed); }

void set_isa(Isa isa) {
  chosen_isa().store(std::min(isa, isa_of_machine()), std::memory_order_relaxed);
}

Isa parse_isa(const std::string& name) {
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (name == isa_name(isa)) return isa;
  }
  throw std::invalid_argument("expected 'portable', 'avx2' or 'avx512'; got '" + name + "'");
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "portable";
  }
}

}  // namespace fishermask
