// Vectors of 16 floats that the compiler lowers to one, two or four registers. Internal to CKernels.
#pragma once
#include <string.h>

#include "cpu.h"

typedef float float16x __attribute__((vector_size(64)));
typedef float float8x __attribute__((vector_size(32)));
typedef float float4x __attribute__((vector_size(16)));
typedef float float2x __attribute__((vector_size(8)));

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

#define splat16(value)                                                          \
  ({                                                                            \
    float one = (value);                                                        \
    (float16x){one, one, one, one, one, one, one, one,                          \
               one, one, one, one, one, one, one, one};                         \
  })

// a * b + c, rounded once.
#define fma16(a, b, c) __builtin_elementwise_fma((a), (b), (c))

// The sum of the elements, pairwise: element l takes l + 8, then l + 4, l + 2, l + 1.
#define sum16(vector)                                                                 \
  ({                                                                                  \
    float16x all = (vector);                                                          \
    float8x eight = __builtin_shufflevector(all, all, 0, 1, 2, 3, 4, 5, 6, 7) +  \
                         __builtin_shufflevector(all, all, 8, 9, 10, 11, 12, 13, 14, 15); \
    float4x four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +           \
                        __builtin_shufflevector(eight, eight, 4, 5, 6, 7);            \
    float2x two =                                                                \
        __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3); \
    two[0] + two[1];                                                                  \
  })

// sum16 of four vectors at once, in the same order: fewer shuffles than four times one.
#define sum16_of4(a, b, c, d)                                                              \
  ({                                                                                       \
    float16x va = (a), vb = (b), vc = (c), vd = (d);                                       \
    float16x ab = __builtin_shufflevector(                                                 \
                      va, vb, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +    \
                  __builtin_shufflevector(                                                 \
                      va, vb, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31); \
    float16x cd = __builtin_shufflevector(                                                 \
                      vc, vd, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +    \
                  __builtin_shufflevector(                                                 \
                      vc, vd, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31); \
    float16x abcd = __builtin_shufflevector(                                               \
                        ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) + \
                    __builtin_shufflevector(                                               \
                        ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31); \
    float8x pairs = __builtin_shufflevector(abcd, abcd, 0, 1, 4, 5, 8, 9, 12, 13) +        \
                    __builtin_shufflevector(abcd, abcd, 2, 3, 6, 7, 10, 11, 14, 15);       \
    __builtin_shufflevector(pairs, pairs, 0, 2, 4, 6) +                                    \
        __builtin_shufflevector(pairs, pairs, 1, 3, 5, 7);                                 \
  })

// The inner product of gk_dot. Four vectors of 16 hide the latency of the fused multiply-add, and bound
// the rounding error by (count / 64 + 7) · 2⁻²⁴ · ‖a‖‖b‖ instead of count · 2⁻²⁴ · ‖a‖‖b‖.
GK_INLINE float inner_product(
    const float *a, const float *b, size_t count) {
  float16x sums[4] = {{0}, {0}, {0}, {0}};
  size_t i = 0;
  for (; i + 64 <= count; i += 64)
    for (int v = 0; v < 4; v++)
      sums[v] = fma16(load16(a + i + 16 * v), load16(b + i + 16 * v), sums[v]);
  for (int v = 0; i < count; v++) {
    size_t left = count - i < 16 ? count - i : 16;
    sums[v] = fma16(load16_partial(a + i, left), load16_partial(b + i, left), sums[v]);
    i += left;
  }
  return sum16((sums[0] + sums[1]) + (sums[2] + sums[3]));
}
