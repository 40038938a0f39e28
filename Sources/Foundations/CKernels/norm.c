#include <math.h>

#include "CGranuleKernels.h"
#include "vector.h"

GK_INLINE float inverse_root(
    float squares, size_t count, float epsilon) {
  return 1 / __builtin_elementwise_sqrt(squares / (float)count + epsilon);
}

GK_KERNEL(
    void, gk_rms_norm,
    (const float *input, const float *weight, float epsilon, size_t count, float *output),
    (input, weight, epsilon, count, output)) {
  float inverse = inverse_root(inner_product(input, input, count), count, epsilon);
  size_t i = 0;
  for (; i + 16 <= count; i += 16)
    store16(output + i, load16(input + i) * splat16(inverse) * load16(weight + i));
  for (; i < count; i++) output[i] = input[i] * inverse * weight[i];
}

void gk_rms_norm_reference(
    const float *input, const float *weight, float epsilon, size_t count, float *output) {
  double squares = 0;
  for (size_t i = 0; i < count; i++) squares += (double)input[i] * input[i];
  double inverse = 1 / sqrt(squares / (double)count + epsilon);
  for (size_t i = 0; i < count; i++) output[i] = (float)(input[i] * inverse * weight[i]);
}

GK_KERNEL(
    void, gk_rms_norm_gradient,
    (const float *input, const float *weight, float epsilon, size_t count, const float *gradient,
     float *input_gradient),
    (input, weight, epsilon, count, gradient, input_gradient)) {
  float inverse = inverse_root(inner_product(input, input, count), count, epsilon);
  float16x sums = {0};
  for (size_t i = 0; i < count; i += 16) {
    size_t left = count - i < 16 ? count - i : 16;
    float16x x = left == 16 ? load16(input + i) : load16_partial(input + i, left);
    float16x w = left == 16 ? load16(weight + i) : load16_partial(weight + i, left);
    float16x g = left == 16 ? load16(gradient + i) : load16_partial(gradient + i, left);
    sums = fma16(x, w * g, sums);
  }
  // d(x r)/dx with r = (‖x‖² / n + ε)^−1/2: r (w g − x r² Σ(w g x) / n).
  float parallel = sum16(sums) * inverse * inverse / (float)count;
  for (size_t i = 0; i < count; i += 16) {
    size_t left = count - i < 16 ? count - i : 16;
    float16x x = left == 16 ? load16(input + i) : load16_partial(input + i, left);
    float16x w = left == 16 ? load16(weight + i) : load16_partial(weight + i, left);
    float16x g = left == 16 ? load16(gradient + i) : load16_partial(gradient + i, left);
    float16x sum =
        left == 16 ? load16(input_gradient + i) : load16_partial(input_gradient + i, left);
    sum = fma16(splat16(inverse), fma16(x, splat16(-parallel), w * g), sum);
    memcpy(input_gradient + i, &sum, left * sizeof(float));
  }
}
