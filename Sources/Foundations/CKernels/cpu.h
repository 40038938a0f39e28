// The versions of a kernel, one for each kind of CPU, and how one of them is chosen. All give the same
// bits. Internal to CKernels.
#pragma once
#include "CGranuleKernels.h"

// Products and sums are rounded one by one: fused multiply-adds are written out, so that all versions
// give the same bits. The pragma holds to the end of each file that includes this header, as every
// kernel's file does.
#pragma STDC FP_CONTRACT OFF

#define GK_INLINE static inline __attribute__((always_inline))
#define GK_HIDDEN __attribute__((visibility("hidden")))
// Without the width the compiler splits vectors of 64 bytes if it thinks them slow.
#define GK_VERSION __attribute__((visibility("hidden"), noinline, min_vector_width(512)))

#if defined(__x86_64__)
#include <immintrin.h>
#define GK_AVX2 __attribute__((target("arch=x86-64-v3")))
#define GK_AVX512 __attribute__((target("arch=x86-64-v4,avx512vnni"), min_vector_width(512)))
// x86-64-v3 and v4 by their features: a version that names the architecture is tuned for it too, which
// halves the vectors that the compiler makes of plain loops.
#define GK_V3_FEATURES "avx2,bmi,bmi2,crc32,cx16,f16c,fma,lzcnt,movbe,popcnt,sahf,xsave"
#define GK_V4_FEATURES GK_V3_FEATURES ",avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
#define GK_VERSION_V3 GK_VERSION __attribute__((target(GK_V3_FEATURES)))
#define GK_VERSION_V4 GK_VERSION __attribute__((target(GK_V4_FEATURES)))
#define GK_X86(...) __VA_ARGS__
// The versions of a kernel, ascending as gk_cpu does.
#define GK_LIST(name) name##_portable, name##_avx2, name##_avx512
// Orders what was stored past the caches before what is stored later.
#define GK_STORE_FENCE() __builtin_ia32_sfence()
#else
#define GK_X86(...)
#define GK_LIST(name) name##_portable
#define GK_STORE_FENCE() __atomic_thread_fence(__ATOMIC_RELEASE)
#endif

// Kernels that choose by themselves: GK_KERNEL(type, name, parameters, arguments) { body } defines the
// function `type name parameters` and its versions name_portable, name_avx2 and name_avx512 (without
// VNNI), which tests compare. There is no constructor and no ifunc: the first call asks the CPU.
#define GK_KERNEL(type, name, parameters, arguments)                                             \
  GK_INLINE type name##_inline parameters;                                                       \
  GK_X86(GK_VERSION_V4 type name##_avx512 parameters { return name##_inline arguments; }         \
         GK_VERSION_V3 type name##_avx2 parameters { return name##_inline arguments; })          \
  GK_VERSION type name##_portable parameters { return name##_inline arguments; }                 \
  static type name##_first parameters;                                                           \
  static type (*const name##_versions[]) parameters = {name##_first, GK_LIST(name)};             \
  static type name##_first parameters { return name##_versions[gk_find_level()] arguments; }     \
  type name parameters {                                                                         \
    return name##_versions[__atomic_load_n(&gk_level, __ATOMIC_RELAXED)] arguments;              \
  }                                                                                              \
  GK_INLINE type name##_inline parameters

// Which of its versions a kernel runs: 0 until it is known, then 1 for the first of GK_LIST. Every thread
// that finds it unknown writes the same.
GK_HIDDEN extern unsigned gk_level;
GK_HIDDEN unsigned gk_find_level(void);

// Kernels whose caller names the CPU: defines a table name_versions, of which a gk_cpu is the index, from
// name_inline, compiled for each CPU.
#define GK_FOR_EACH_CPU(name, parameters, arguments)                                 \
  GK_X86(GK_AVX512 static void name##_avx512 parameters { name##_inline arguments; } \
         GK_AVX2 static void name##_avx2 parameters { name##_inline arguments; })    \
  static void name##_portable parameters { name##_inline arguments; }                \
  static void (*const name##_versions[]) parameters = {GK_LIST(name)}
