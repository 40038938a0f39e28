#include <math.h>

#include "CGranuleKernels.h"
#include "exponential.h"

GK_KERNEL(float, gk_maximum, (const float *values, size_t count), (values, count)) {
  float16x largest = splat16(-INFINITY);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    float16x next = load16(values + i);
    int32x16 greater = next > largest;
    largest = (float16x)(((int32x16)next & greater) | ((int32x16)largest & ~greater));
  }
  float maximum = -INFINITY;
  for (int l = 0; l < 16; l++) maximum = largest[l] > maximum ? largest[l] : maximum;
  for (; i < count; i++) maximum = values[i] > maximum ? values[i] : maximum;
  return maximum;
}

GK_KERNEL(
    double, gk_exponentials,
    (float *values, size_t count, float shift, float scale), (values, count, shift, scale)) {
  double total = 0;
  // Sums of 32 floats a lane, then in double precision: long rows lose nothing.
  for (size_t start = 0; start < count; start += 512) {
    size_t end = count - start < 512 ? count : start + 512;
    float16x sum = {0};
    size_t i = start;
    for (; i + 16 <= end; i += 16) {
      float16x result = exp16(load16(values + i) - splat16(shift)) * splat16(scale);
      store16(values + i, result);
      sum += result;
    }
    if (i < end) {
      float16x result = exp16(load16_partial(values + i, end - i) - splat16(shift)) * splat16(scale);
      for (size_t l = end - i; l < 16; l++) result[l] = 0;
      memcpy(values + i, &result, (end - i) * sizeof(float));
      sum += result;
    }
    total += sum16(sum);
  }
  return total;
}

double gk_exponentials_reference(float *values, size_t count, float shift, float scale) {
  double total = 0;
  for (size_t i = 0; i < count; i++) {
    double result = exp((double)(values[i] - shift)) * scale;
    values[i] = (float)result;
    total += result;
  }
  return total;
}

GK_KERNEL(
    void, gk_softmax_gradient,
    (const float *probabilities, float *gradients, size_t count, float mean),
    (probabilities, gradients, count, mean)) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16)
    store16(gradients + i, load16(probabilities + i) * (load16(gradients + i) - splat16(mean)));
  for (; i < count; i++) gradients[i] = probabilities[i] * (gradients[i] - mean);
}

GK_KERNEL(void, gk_scale, (float *values, size_t count, float factor), (values, count, factor)) {
  for (size_t i = 0; i < count; i++) values[i] *= factor;
}
