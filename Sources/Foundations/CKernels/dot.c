#include "CGranuleKernels.h"
#include "vector.h"

GK_KERNEL(float, gk_dot, (const float *a, const float *b, size_t count), (a, b, count)) {
  return inner_product(a, b, count);
}

float gk_dot_reference(const float *a, const float *b, size_t count) {
  float sums[64] = {0};
  for (size_t i = 0; i < count; i++) sums[i % 64] = __builtin_fmaf(a[i], b[i], sums[i % 64]);
  float quarter[16];
  for (int l = 0; l < 16; l++)
    quarter[l] = (sums[l] + sums[16 + l]) + (sums[32 + l] + sums[48 + l]);
  for (int half = 8; half >= 1; half /= 2)
    for (int l = 0; l < half; l++) quarter[l] += quarter[l + half];
  return quarter[0];
}

GK_KERNEL(
    float, gk_squared_distance, (const float *a, const float *b, size_t count), (a, b, count)) {
  float16x sums[4] = {{0}, {0}, {0}, {0}};
  size_t i = 0;
  for (; i + 64 <= count; i += 64)
    for (int v = 0; v < 4; v++) {
      float16x difference = load16(a + i + 16 * v) - load16(b + i + 16 * v);
      sums[v] = fma16(difference, difference, sums[v]);
    }
  for (int v = 0; i < count; v++) {
    size_t left = count - i < 16 ? count - i : 16;
    float16x difference = load16_partial(a + i, left) - load16_partial(b + i, left);
    sums[v] = fma16(difference, difference, sums[v]);
    i += left;
  }
  return sum16((sums[0] + sums[1]) + (sums[2] + sums[3]));
}
