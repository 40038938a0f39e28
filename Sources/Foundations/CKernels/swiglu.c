#include <math.h>

#include "CGranuleKernels.h"
#include "exponential.h"

GK_KERNEL(
    void, gk_swiglu,
    (const float *gate, const float *up, float *output, size_t count), (gate, up, output, count)) {
  for (size_t i = 0; i < count; i += 16) {
    size_t left = count - i < 16 ? count - i : 16;
    float16x g = left == 16 ? load16(gate + i) : load16_partial(gate + i, left);
    float16x u = left == 16 ? load16(up + i) : load16_partial(up + i, left);
    float16x result = g / (splat16(1) + exp16(-g)) * u;
    memcpy(output + i, &result, left * sizeof(float));
  }
}

GK_KERNEL(
    void, gk_swiglu_gradient,
    (float *gate, float *up, const float *gradient, size_t count), (gate, up, gradient, count)) {
  for (size_t i = 0; i < count; i += 16) {
    size_t left = count - i < 16 ? count - i : 16;
    float16x g = left == 16 ? load16(gate + i) : load16_partial(gate + i, left);
    float16x u = left == 16 ? load16(up + i) : load16_partial(up + i, left);
    float16x d = left == 16 ? load16(gradient + i) : load16_partial(gradient + i, left);
    float16x sigmoid = splat16(1) / (splat16(1) + exp16(-g));
    float16x silu = g * sigmoid;
    // (g σ)' = σ + g σ (1 − σ)
    float16x slope = fma16(silu, splat16(1) - sigmoid, sigmoid);
    float16x gate_gradient = d * u * slope, up_gradient = d * silu;
    memcpy(gate + i, &gate_gradient, left * sizeof(float));
    memcpy(up + i, &up_gradient, left * sizeof(float));
  }
}

void gk_swiglu_reference(const float *gate, const float *up, float *output, size_t count) {
  for (size_t i = 0; i < count; i++)
    output[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

void gk_swiglu_gradient_reference(
    float *gate, float *up, const float *gradient, size_t count) {
  for (size_t i = 0; i < count; i++) {
    double g = gate[i], sigmoid = 1 / (1 + exp(-g));
    gate[i] = (float)((double)gradient[i] * up[i] * (sigmoid + g * sigmoid * (1 - sigmoid)));
    up[i] = (float)(gradient[i] * g * sigmoid);
  }
}
