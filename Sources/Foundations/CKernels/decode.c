#include "CGranuleKernels.h"
#include "vector.h"

GK_INLINE void emit(
    const float *sum, size_t d_model, const float *activation, float scale, float shift,
    float *squared_error, float *reconstruction) {
  float16x scales = splat16(scale), shifts = splat16(shift), errors = {0};
  size_t i = 0;
  for (; i + 16 <= d_model; i += 16) {
    float16x value = fma16(scales, load16(sum + i), shifts);
    if (reconstruction) store16(reconstruction + i, value);
    if (squared_error) {
      float16x difference = load16(activation + i) - value;
      errors = fma16(difference, difference, errors);
    }
  }
  if (i < d_model) {
    size_t left = d_model - i;
    float16x value = fma16(scales, load16_partial(sum + i, left), shifts);
    if (reconstruction) memcpy(reconstruction + i, &value, left * sizeof(float));
    if (squared_error) {
      float16x difference = load16_partial(activation + i, left) - value;
      // Beyond the end the sum is 0 and the shift must not count.
      for (size_t l = left; l < 16; l++) difference[l] = 0;
      errors = fma16(difference, difference, errors);
    }
  }
  if (squared_error) *squared_error = sum16(errors);
}

// Several rows at once: the sum is loaded and stored once for all, and memory serves them together,
// and the next ones before they are needed: rows lie too far apart for the processor to foresee them.
// left: indices from here on.
GK_INLINE void add_rows(
    const float *decoder, size_t d_model, const uint32_t *indices, const float *values,
    const size_t count, size_t left, float *sum) {
  const float *rows[4], *later[4];
  float16x splat[4];
  for (size_t r = 0; r < count; r++) {
    rows[r] = decoder + (size_t)indices[r] * d_model;
    later[r] = decoder + (size_t)indices[r + count < left ? r + count : r] * d_model;
    splat[r] = splat16(values[r]);
  }
  size_t i = 0;
  for (; i + 16 <= d_model; i += 16) {
    float16x added = load16(sum + i);
    for (size_t r = 0; r < count; r++) {
      __builtin_prefetch(later[r] + i);
      added = fma16(splat[r], load16(rows[r] + i), added);
    }
    store16(sum + i, added);
  }
  for (; i < d_model; i++)
    for (size_t r = 0; r < count; r++) sum[i] = __builtin_fmaf(values[r], rows[r][i], sum[i]);
}

GK_KERNEL(
    void, gk_nested_decode,
    (const float *decoder, const float *bias, size_t d_model, const uint32_t *indices,
     const float *values, size_t active, const uint32_t *granularities, size_t prefixes,
     const float *activation, float scale, float shift, float *sum, float *squared_errors,
     float *reconstructions, size_t reconstruction_stride),
    (decoder, bias, d_model, indices, values, active, granularities, prefixes, activation, scale,
     shift, sum, squared_errors, reconstructions, reconstruction_stride)) {
  memcpy(sum, bias, d_model * sizeof(float));
  size_t next = 0;
  for (size_t m = 0; m < prefixes; m++) {
    size_t end = next;
    while (end < active && indices[end] < granularities[m]) end++;
    for (; next + 4 <= end; next += 4)
      add_rows(decoder, d_model, indices + next, values + next, 4, active - next, sum);
    for (; next < end; next++)
      add_rows(decoder, d_model, indices + next, values + next, 1, active - next, sum);
    emit(sum, d_model, activation, scale, shift, squared_errors ? squared_errors + m : NULL,
         reconstructions ? reconstructions + m * reconstruction_stride : NULL);
  }
}
