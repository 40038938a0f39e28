// e^x for 16 floats. Internal to CKernels.
#pragma once
#include <stdint.h>

#include "vector.h"

typedef int32_t int32x16 __attribute__((vector_size(64)));

// e^x = 2^n e^r with n = x / ln 2 rounded to nearest, so |r| ≤ ln 2 / 2, and a polynomial of degree
// 7 in r (Taylor's, whose remainder there is 5·10⁻⁹). Relative error ≤ 1.2·10⁻⁷ for
// −87 ≤ x ≤ 88.7; below it gives 0, above e^88.7; NaN stays NaN.
#define exp16(power)                                                                      \
  ({                                                                                      \
    float16x asked = (power);                                                             \
    int32x16 above = asked > splat16(88.7f), kept = ~(int32x16)(asked < splat16(-87.0f)); \
    float16x x = (float16x)(((int32x16)asked & ~above) | ((int32x16)splat16(88.7f) & above)); \
    /* Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits. */            \
    float16x shifted = fma16(x, splat16(0x1.715476p+0f), splat16(0x1.8p23f));             \
    float16x n = shifted - splat16(0x1.8p23f);                                            \
    float16x r = fma16(n, splat16(-0x1.62e430p-1f), x);                                   \
    r = fma16(n, splat16(0x1.05c610p-29f), r);                                            \
    float16x p = splat16(1.0f / 5040);                                                    \
    p = fma16(p, r, splat16(1.0f / 720));                                                 \
    p = fma16(p, r, splat16(1.0f / 120));                                                 \
    p = fma16(p, r, splat16(1.0f / 24));                                                  \
    p = fma16(p, r, splat16(1.0f / 6));                                                   \
    p = fma16(p, r, splat16(0.5f));                                                       \
    p = fma16(p, r, splat16(1.0f));                                                       \
    p = fma16(p, r, splat16(1.0f));                                                       \
    (float16x)(((int32x16)p + ((int32x16)shifted << 23)) & kept);                         \
  })
