// The versions of the encoder's kernels, which the caller names: each is compiled for its CPU, all
// give the same bits. Internal to CKernels.
#pragma once
#include "CGranuleKernels.h"

// Products and sums are rounded one by one: fused multiply-adds are written out, so that every version
// gives the same bits. Holds to the end of each file that includes this, as every kernel's does.
#pragma STDC FP_CONTRACT OFF

#define GK_AVX512 \
  __attribute__((target("arch=x86-64-v4,avx512vnni"), min_vector_width(512)))
#define GK_AVX2 __attribute__((target("arch=x86-64-v3")))
#define GK_INLINE static inline __attribute__((always_inline))

// Defines name(cpu, …) from name_inline(…), compiled for each CPU.
#define GK_FOR_EACH_CPU(name, parameters, arguments)                              \
  GK_AVX512 static void name##_avx512 parameters { name##_inline arguments; }     \
  GK_AVX2 static void name##_avx2 parameters { name##_inline arguments; }         \
  static void name##_portable parameters { name##_inline arguments; }                  \
  static void (*const name##_versions[]) parameters = {                                \
      name##_portable, name##_avx2, name##_avx512}
