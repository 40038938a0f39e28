// Vectors of 16 floats that the compiler lowers to one, two or four registers, and the versions of
// a function to compile. Internal to CKernels.
#pragma once
#include <string.h>

#define GRANULE_VERSIONS \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))

typedef float float16x __attribute__((vector_size(64)));

// Macros, since a function that takes or returns such a vector has another calling convention in
// each version.

#define load16(from)                 \
  ({                                 \
    float16x loaded;                 \
    memcpy(&loaded, (from), 64);     \
    loaded;                          \
  })

// The last 0 < count < 16 floats, padded with zeros.
#define load16_partial(from, count)                    \
  ({                                                   \
    float16x loaded = {0};                             \
    memcpy(&loaded, (from), (count) * sizeof(float));  \
    loaded;                                            \
  })

#define store16(to, vector)        \
  ({                               \
    float16x stored = (vector);    \
    memcpy((to), &stored, 64);     \
  })

#define splat16(value) ((float16x){0} + (value))

// a * b + c, rounded once.
#define fma16(a, b, c) __builtin_elementwise_fma((a), (b), (c))

// Pairwise: element l takes l + 8, then l + 4, l + 2, l + 1.
static inline __attribute__((always_inline)) float sum_pairwise16(float *elements) {
  for (int half = 8; half >= 1; half /= 2)
    for (int l = 0; l < half; l++) elements[l] += elements[l + half];
  return elements[0];
}
#define sum16(vector)                \
  ({                                 \
    float elements[16];              \
    store16(elements, (vector));     \
    sum_pairwise16(elements);        \
  })
