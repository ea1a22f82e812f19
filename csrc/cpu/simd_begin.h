// Opens a kernel body for one instruction set; simd_end.h closes it. Vectors are GCC/Clang vector
// extensions of the unit's native width, so that one body serves every width.
//
//   <op>_avx2.cpp:     #include "isa.h"
//                      #if FISHERMASK_X86
//                      #define FISHERMASK_UNIT FISHERMASK_AVX2
//                      #include "<op>_kernel.inl"
//                      #endif
//   <op>_kernel.inl:   #include <the standard headers it needs> and "<op>_kernel.h"
//                      #include "simd_begin.h"
//                      ... the body, in namespace fishermask::<instruction set> ...
//                      #include "simd_end.h"
//
// With FISHERMASK_EMULATE_AVX512 the widest body is compiled with the same lanes for any machine,
// so that tests can run it everywhere.
//
// Every include stands before simd_begin.h: a standard template defined after it would be compiled
// for this instruction set under a name that all units share. There is no include guard, because a
// body may be closed and opened again.
#ifndef FISHERMASK_UNIT
#error "define FISHERMASK_UNIT as FISHERMASK_PORTABLE, FISHERMASK_AVX2 or FISHERMASK_AVX512"
#endif

#if FISHERMASK_UNIT == FISHERMASK_AVX512
#define FISHERMASK_NAMESPACE avx512
#define FISHERMASK_VECTOR_BYTES 64
#ifndef FISHERMASK_EMULATE_AVX512
#define FISHERMASK_TARGET "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"
#endif
#elif FISHERMASK_UNIT == FISHERMASK_AVX2
#define FISHERMASK_NAMESPACE avx2
#define FISHERMASK_VECTOR_BYTES 32
#define FISHERMASK_TARGET "avx2,fma"
#else
#define FISHERMASK_NAMESPACE portable
#define FISHERMASK_VECTOR_BYTES 16
#endif

#ifdef FISHERMASK_TARGET
#define FISHERMASK_PRAGMA(...) _Pragma(#__VA_ARGS__)
#define FISHERMASK_EXPAND_PRAGMA(...) FISHERMASK_PRAGMA(__VA_ARGS__)
#ifdef __clang__
FISHERMASK_EXPAND_PRAGMA(clang attribute push(__attribute__((target(FISHERMASK_TARGET))),
                                              apply_to = function))
#else
#pragma GCC push_options
FISHERMASK_EXPAND_PRAGMA(GCC target(FISHERMASK_TARGET))
#endif
#endif

namespace fishermask::FISHERMASK_NAMESPACE {

#ifndef FISHERMASK_SIMD_TYPES
#define FISHERMASK_SIMD_TYPES

#define FISHERMASK_INLINE static inline __attribute__((always_inline))

constexpr int kVectorBytes = FISHERMASK_VECTOR_BYTES;

template <typename T>
struct VectorType {
  typedef T type __attribute__((vector_size(FISHERMASK_VECTOR_BYTES)));
};

// As many T as fill one register of this instruction set.
template <typename T>
using Vector = typename VectorType<T>::type;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// Neither load nor store asks for an alignment.
template <typename T>
FISHERMASK_INLINE Vector<T> load(const T* from) {
  Vector<T> vector;
  __builtin_memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <typename T>
FISHERMASK_INLINE void store(T* to, Vector<T> vector) {
  __builtin_memcpy(to, &vector, sizeof(vector));
}

template <typename T>
FISHERMASK_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// kLanes<double> floats, widened.
FISHERMASK_INLINE Vector<double> load_widened(const float* from) {
  typedef float half __attribute__((vector_size(FISHERMASK_VECTOR_BYTES / 2)));
  half narrow;
  __builtin_memcpy(&narrow, from, sizeof(narrow));
  return __builtin_convertvector(narrow, Vector<double>);
}

// The first halves of two vectors, entry by entry in turn, or the second ones.
#ifdef __clang__
template <typename T, bool High, int... I>
FISHERMASK_INLINE Vector<T> interleave(Vector<T> a, Vector<T> b, std::integer_sequence<int, I...>) {
  constexpr int n = kLanes<T>;
  return __builtin_shufflevector(a, b, (High * n / 2 + I / 2 + I % 2 * n)...);
}

template <typename T, bool High>
FISHERMASK_INLINE Vector<T> interleave(Vector<T> a, Vector<T> b) {
  return interleave<T, High>(a, b, std::make_integer_sequence<int, kLanes<T>>());
}
#else
template <typename T, bool High>
FISHERMASK_INLINE Vector<T> interleave(Vector<T> a, Vector<T> b) {
  constexpr int n = kLanes<T>;
  typedef std::conditional_t<sizeof(T) == 8, int64_t, int32_t> Index;
  Vector<Index> from;
  for (int i = 0; i < n; ++i) from[i] = High * n / 2 + i / 2 + i % 2 * n;
  return __builtin_shuffle(a, b, from);
}
#endif

// Rows of a square to its columns.
template <typename T>
FISHERMASK_INLINE void transpose(Vector<T> (&square)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  for (int width = 1; width < n; width *= 2) {
    Vector<T> next[n];
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = interleave<T, false>(square[i], square[i + n / 2]);
      next[2 * i + 1] = interleave<T, true>(square[i], square[i + n / 2]);
    }
    for (int i = 0; i < n; ++i) square[i] = next[i];
  }
}

// a * b + c, rounded once wherever the instruction set has a fused multiply-add: the build passes
// -ffp-contract=fast, and every multiply_add of a unit becomes the same instruction.
template <typename V>
FISHERMASK_INLINE V multiply_add(V a, V b, V c) {
  return a * b + c;
}

// Sum of the lanes, halves onto halves.
template <typename T>
FISHERMASK_INLINE T sum_lanes(Vector<T> vector) {
  T sums[kLanes<T>];
  store(sums, vector);
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) sums[lane] += sums[width + lane];
  }
  return sums[0];
}

#endif
