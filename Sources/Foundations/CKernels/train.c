#include "CGranuleKernels.h"
#include "vector.h"

GK_KERNEL(
    void, gk_suffix_residuals,
    (float *rows, size_t prefixes, size_t d_model, const float *activation, const float *weights),
    (rows, prefixes, d_model, activation, weights)) {
  for (size_t m = prefixes; m-- > 0;) {
    float *row = rows + m * d_model;
    const float *next = m + 1 < prefixes ? row + d_model : NULL;
    float weight = weights[m];
    for (size_t i = 0; i < d_model; i++)
      row[i] = __builtin_fmaf(weight, row[i] - activation[i], next ? next[i] : 0);
  }
}

// The sum of a latent's row stays in the first cache while token rows stream past.
GK_KERNEL(
    void, gk_weighted_rows_sum,
    (const float *rows, size_t d_model, const uint32_t *row_indices, const float *weights,
     size_t count, float *sum),
    (rows, d_model, row_indices, weights, count, sum)) {
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

GK_KERNEL(
    void, gk_latent_products,
    (const float *decoder, size_t d_model, const uint32_t *indices, size_t active,
     const uint32_t *blocks, const float *rows, float *products),
    (decoder, d_model, indices, active, blocks, rows, products)) {
  for (size_t i = 0; i < active; i++) {
    size_t latent = indices[i];
    products[i] =
        inner_product(decoder + latent * d_model, rows + (size_t)blocks[latent] * d_model, d_model);
  }
}

GK_KERNEL(
    void, gk_cut_row,
    (const float *row, size_t d_model, float *strips, size_t stride),
    (row, d_model, strips, stride)) {
  size_t i = 0;
  // Past the caches: a strip is read again when all others have been written.
  for (; i + gk_strip_columns <= d_model; i += gk_strip_columns, strips += stride) {
    __builtin_nontemporal_store(load16(row + i), (float16x *)strips);
    __builtin_nontemporal_store(load16(row + i + 16), (float16x *)(strips + 16));
  }
  if (i < d_model) {
    memset(strips, 0, gk_strip_columns * sizeof(float));
    memcpy(strips, row + i, (d_model - i) * sizeof(float));
  }
  // Others must see what was stored past the caches.
  GK_STORE_FENCE();
}

// The four sums of a latent stay in registers while rows of the strip, which is in the second-level
// cache, pass by.
GK_INLINE void add_entries(
    const gk_entry *entries, size_t count, const float *inputs, const float *returned,
    float16x sums[4]) {
  for (size_t i = 0; i < count; i++) {
    size_t row = (size_t)entries[i].token * gk_strip_columns;
    float16x gradient = splat16(entries[i].gradient), value = splat16(entries[i].value);
    sums[0] = fma16(gradient, load16(inputs + row), sums[0]);
    sums[1] = fma16(gradient, load16(inputs + row + 16), sums[1]);
    sums[2] = fma16(value, load16(returned + row), sums[2]);
    sums[3] = fma16(value, load16(returned + row + 16), sums[3]);
  }
}

GK_INLINE void store_strip(
    float *row, size_t columns, const float16x sums[2]) {
  if (columns == gk_strip_columns && (uintptr_t)row % 64 == 0) {
    // Past the caches, which need not read what is overwritten whole.
    __builtin_nontemporal_store(sums[0], (float16x *)row);
    __builtin_nontemporal_store(sums[1], (float16x *)(row + 16));
    return;
  }
  float both[gk_strip_columns];
  store16(both, sums[0]);
  store16(both + 16, sums[1]);
  memcpy(row, both, columns * sizeof(float));
}

GK_KERNEL(
    void, gk_strip_gradients,
    (const gk_gradients *problem, size_t strip, size_t first, size_t end),
    (problem, strip, first, end)) {
  size_t d_model = problem->d_model;
  size_t strips = (d_model + gk_strip_columns - 1) / gk_strip_columns;
  size_t offset = strip * gk_strip_columns, slab = problem->slab_stride;
  size_t columns =
      d_model - offset < gk_strip_columns ? d_model - offset : gk_strip_columns;
  size_t start = strip * (slab / strips);
  const float *inputs = problem->inputs + start, *returned = problem->returned + start;
  for (size_t latent = first; latent < end; latent++) {
    float16x sums[4] = {{0}, {0}, {0}, {0}};
    size_t count = 0;
    for (size_t part = 0; part < 2; part++) {
      const gk_entries *entries = problem->entries + part;
      if (!entries->entries) continue;
      size_t begin = entries->offsets[latent], active = entries->offsets[latent + 1] - begin;
      size_t block = part == 0 ? problem->blocks[latent] : problem->auxiliary_block;
      add_entries(entries->entries + begin, active, inputs, returned + block * slab, sums);
      count += active;
    }
    if (count == 0 && problem->is_zero[latent]) {
      problem->squared_norms[strip * problem->latents + latent] = 0;
      continue;
    }
    store_strip(problem->encoder + latent * d_model + offset, columns, sums);
    store_strip(problem->decoder + latent * d_model + offset, columns, sums + 2);
    float16x squares = sums[0] * sums[0];
    for (int v = 1; v < 4; v++) squares = fma16(sums[v], sums[v], squares);
    problem->squared_norms[strip * problem->latents + latent] = sum16(squares);
  }
  // Others must see what was stored past the caches.
  GK_STORE_FENCE();
}

GK_KERNEL(
    void, gk_strip_sum, (const float *strip, size_t tokens, float *sum), (strip, tokens, sum)) {
  float16x sums[2] = {{0}, {0}};
  for (size_t token = 0; token < tokens; token++) {
    sums[0] += load16(strip + token * gk_strip_columns);
    sums[1] += load16(strip + token * gk_strip_columns + 16);
  }
  store16(sum, sums[0]);
  store16(sum + 16, sums[1]);
}

GK_KERNEL(
    void, gk_column_moments,
    (const float *rows, size_t count, size_t columns, const float *shift, double *sums,
     double *squares),
    (rows, count, columns, shift, sums, squares)) {
  for (size_t row = 0; row < count; row++)
    for (size_t i = 0; i < columns; i++) {
      double value = rows[row * columns + i] - shift[i];
      sums[i] += value;
      squares[i] = __builtin_fma(value, value, squares[i]);
    }
}

GK_INLINE void normalize(float *row, size_t count) {
  float squared_norm = inner_product(row, row, count);
  if (squared_norm == 0) return;
  float factor = 1 / __builtin_elementwise_sqrt(squared_norm);
  for (size_t i = 0; i < count; i++) row[i] *= factor;
}

GK_KERNEL(void, gk_normalize, (float *row, size_t count), (row, count)) { normalize(row, count); }

// parallel: what is subtracted from the gradient, times the parameters; has_gradients: else zeros.
GK_INLINE void adam(
    float *restrict parameters, float *restrict first_moments, float *restrict second_moments,
    const float *restrict gradients, const int has_gradients, const int is_row, float parallel,
    size_t count, const gk_adam_step *step) {
  float beta1 = step->beta1, beta2 = step->beta2, scale = step->gradient_scale;
  float step_size = step->learning_rate / step->bias_correction1, epsilon = step->epsilon;
  float root_correction = 1 / __builtin_elementwise_sqrt(step->bias_correction2);
  float shrink = 1 - step->learning_rate * step->weight_decay;
  for (size_t i = 0; i < count; i++) {
    float gradient = has_gradients ? gradients[i] : 0;
    if (is_row) gradient = __builtin_fmaf(-parallel, parameters[i], gradient);
    gradient *= scale;
    float first = __builtin_fmaf(beta1, first_moments[i] - gradient, gradient);
    float squared = gradient * gradient;
    float second = __builtin_fmaf(beta2, second_moments[i] - squared, squared);
    first_moments[i] = first;
    second_moments[i] = second;
    float denominator = __builtin_fmaf(__builtin_elementwise_sqrt(second), root_correction, epsilon);
    parameters[i] = __builtin_fmaf(-step_size, first / denominator, parameters[i] * shrink);
  }
}

GK_KERNEL(
    void, gk_adam,
    (float *parameters, float *first_moments, float *second_moments, const float *gradients,
     size_t count, const gk_adam_step *step),
    (parameters, first_moments, second_moments, gradients, count, step)) {
  if (gradients)
    adam(parameters, first_moments, second_moments, gradients, 1, 0, 0, count, step);
  else
    adam(parameters, first_moments, second_moments, NULL, 0, 0, 0, count, step);
}

GK_KERNEL(
    void, gk_adam_unit_row,
    (float *row, float *first_moments, float *second_moments, const float *gradients,
     float parallel, size_t count, const gk_adam_step *step),
    (row, first_moments, second_moments, gradients, parallel, count, step)) {
  if (gradients)
    adam(row, first_moments, second_moments, gradients, 1, 1, parallel, count, step);
  else
    adam(row, first_moments, second_moments, NULL, 0, 0, 0, count, step);
  normalize(row, count);
}
