#include "CGranuleKernels.h"
#include "vector.h"

#define swap_pairs(vector)                                                                     \
  __builtin_shufflevector((vector), (vector), 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)

GK_KERNEL(
    void, gk_rotate_pairs,
    (float *heads, size_t head_count, size_t head_dimension, const float *cosines,
     const float *sines, float direction),
    (heads, head_count, head_dimension, cosines, sines, direction)) {
  for (size_t head = 0; head < head_count; head++) {
    float *values = heads + head * head_dimension;
    for (size_t i = 0; i < head_dimension; i += 16) {
      size_t left = head_dimension - i < 16 ? head_dimension - i : 16;
      float16x x = left == 16 ? load16(values + i) : load16_partial(values + i, left);
      float16x c = left == 16 ? load16(cosines + i) : load16_partial(cosines + i, left);
      float16x s = left == 16 ? load16(sines + i) : load16_partial(sines + i, left);
      float16x result = fma16(x, c, swap_pairs(x) * s * splat16(direction));
      memcpy(values + i, &result, left * sizeof(float));
    }
  }
}
