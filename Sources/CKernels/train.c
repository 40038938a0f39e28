#include "CKernels.h"
#include "vector.h"

GRANULE_VERSIONS
void granule_suffix_residuals(
    float *rows, size_t prefixes, size_t d_model, const float *activation, const float *weights) {
  for (size_t m = prefixes; m-- > 0;) {
    float *row = rows + m * d_model;
    const float *next = m + 1 < prefixes ? row + d_model : NULL;
    float weight = weights[m];
    for (size_t i = 0; i < d_model; i++)
      row[i] = __builtin_fmaf(weight, row[i] - activation[i], next ? next[i] : 0);
  }
}

// The sum of a latent's row stays in the first cache while token rows stream past.
GRANULE_VERSIONS
void granule_weighted_rows_sum(
    const float *rows, size_t d_model, const uint32_t *row_indices, const float *weights,
    size_t count, float *sum) {
  memset(sum, 0, d_model * sizeof(float));
  for (size_t entry = 0; entry < count; entry++) {
    const float *row = rows + (size_t)row_indices[entry] * d_model;
    float16x weight = splat16(weights[entry]);
    size_t i = 0;
    for (; i + 16 <= d_model; i += 16)
      store16(sum + i, fma16(weight, load16(row + i), load16(sum + i)));
    for (; i < d_model; i++) sum[i] = __builtin_fmaf(weights[entry], row[i], sum[i]);
  }
}

GRANULE_VERSIONS
void granule_remove_parallel(float *gradient, const float *row, size_t count) {
  float parallel = granule_dot(gradient, row, count);
  for (size_t i = 0; i < count; i++) gradient[i] = __builtin_fmaf(-parallel, row[i], gradient[i]);
}

GRANULE_VERSIONS
void granule_normalize(float *row, size_t count) {
  float squared_norm = granule_dot(row, row, count);
  if (squared_norm == 0) return;
  float factor = 1 / __builtin_sqrtf(squared_norm);
  for (size_t i = 0; i < count; i++) row[i] *= factor;
}

GRANULE_VERSIONS
void granule_adam(
    float *restrict parameters, float *restrict first_moments, float *restrict second_moments,
    const float *restrict gradients, size_t count, const granule_adam_step *step) {
  float beta1 = step->beta1, beta2 = step->beta2;
  float step_size = step->learning_rate / step->bias_correction1;
  float root_correction = 1 / __builtin_sqrtf(step->bias_correction2);
  float shrink = 1 - step->learning_rate * step->weight_decay;
  for (size_t i = 0; i < count; i++) {
    float gradient = gradients[i] * step->gradient_scale;
    float first = __builtin_fmaf(beta1, first_moments[i] - gradient, gradient);
    float squared = gradient * gradient;
    float second = __builtin_fmaf(beta2, second_moments[i] - squared, squared);
    first_moments[i] = first;
    second_moments[i] = second;
    float denominator = __builtin_fmaf(__builtin_sqrtf(second), root_correction, step->epsilon);
    parameters[i] = __builtin_fmaf(-step_size, first / denominator, parameters[i] * shrink);
  }
}
