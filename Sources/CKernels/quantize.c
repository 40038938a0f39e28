// row: [d_model] → [16 · vectors] int8; 64 rows of an encoder → a panel of its screen
#include "cpu.h"
#include "vector.h"

typedef double double8x __attribute__((vector_size(64)));
typedef int32_t int16x __attribute__((vector_size(64)));
typedef int8_t byte16x __attribute__((vector_size(16)));

// y[l] = x[l ^ bit] ± x[l], minus where the bit is set in l: one stage of a Hadamard transform.
#define butterfly16(x, bit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                       \
  fma16((x), signs16[bit],                                                                       \
        __builtin_shufflevector((x), (x), a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p))

static const float16x signs16[4] = {
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
    {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
    {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};

// The orthogonal transform (up to a power of two) H₁₆ ⊗ H_(vectors / odd) ⊗ Hartley_odd.
// values: [16 · vectors], receives the result; scratch: the same size.
GRANULE_INLINE void spread(
    float *values, size_t vectors, size_t odd, const float *hartley, float *scratch) {
  for (size_t v = 0; v < vectors; v++) {
    float16x x = load16(values + 16 * v);
    x = butterfly16(x, 0, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    x = butterfly16(x, 1, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    x = butterfly16(x, 2, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x = butterfly16(x, 3, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    store16(values + 16 * v, x);
  }
  for (size_t stride = odd; stride < vectors; stride *= 2)
    for (size_t block = 0; block < vectors; block += 2 * stride)
      for (size_t v = block; v < block + stride; v++) {
        float16x a = load16(values + 16 * v), b = load16(values + 16 * (v + stride));
        store16(values + 16 * v, a + b);
        store16(values + 16 * (v + stride), a - b);
      }
  if (odd == 1) return;
  for (size_t block = 0; block < vectors; block += odd) {
    const float *from = values + 16 * block;
    // Three rows share the loads of a column.
    size_t row = 0;
    for (; row + 3 <= odd; row += 3) {
      float16x sums[3] = {{0}, {0}, {0}};
      for (size_t column = 0; column < odd; column++) {
        float16x x = load16(from + 16 * column);
        for (size_t r = 0; r < 3; r++)
          sums[r] = fma16(splat16(hartley[(row + r) * odd + column]), x, sums[r]);
      }
      for (size_t r = 0; r < 3; r++) store16(scratch + 16 * (block + row + r), sums[r]);
    }
    for (; row < odd; row++) {
      float16x sum = {0};
      for (size_t column = 0; column < odd; column++)
        sum = fma16(splat16(hartley[row * odd + column]), load16(from + 16 * column), sum);
      store16(scratch + 16 * (block + row), sum);
    }
  }
  memcpy(values, scratch, 16 * vectors * sizeof(float));
}

GRANULE_INLINE void granule_quantize_inline(
    const float *row, const float *center, const float *scales, size_t d_model,
    const granule_rotation *rotation, int levels, float *scratch, int8_t *quantized,
    granule_quantized_row *result) {
  size_t vectors = rotation->vectors;
  float *values = scratch;
  size_t i = 0;
  for (; i + 16 <= d_model; i += 16) {
    float16x x = load16(row + i);
    if (center) x -= load16(center + i);
    store16(values + i, x * load16(scales + i));
  }
  if (i < d_model) {
    size_t left = d_model - i;
    float16x x = load16_partial(row + i, left);
    if (center) x -= load16_partial(center + i, left);
    store16(values + i, x * load16_partial(scales + i, left));
    i += 16;
  }
  if (i < 16 * vectors) memset(values + i, 0, (16 * vectors - i) * sizeof(float));
  spread(values, vectors, rotation->odd, rotation->hartley, scratch + 16 * vectors);

  // Magnitudes order as their bits do, those of what is no number last.
  int16x largest = {0};
  float16x squares = {0};
  for (size_t v = 0; v < vectors; v++) {
    float16x x = load16(values + 16 * v);
    int16x bits;
    memcpy(&bits, &x, sizeof bits);
    largest = __builtin_elementwise_max(largest, bits & 0x7fffffff);
    squares = fma16(x, x, squares);
  }
  int32_t largest_bits = __builtin_reduce_max(largest);
  float maximum, squared_norm = sum16(squares);
  memcpy(&maximum, &largest_bits, sizeof maximum);
  result->norm = __builtin_sqrtf(squared_norm);
  // Also false for NaN. Of small rows the squares lose bits, and then vanish: their norms would say
  // too little.
  result->usable = squared_norm > 1e-24f && squared_norm < 1e38f;
  if (!result->usable) {
    memset(quantized, 0, 16 * vectors);
    result->scale = 0;
    result->residual_norm = result->norm;
    result->sum = 0;
    return;
  }
  result->scale = maximum / (float)levels;
  float16x scale = splat16(result->scale), inverse = splat16((float)levels / maximum);
  float16x residuals = {0};
  int16x sums = {0};
  for (size_t v = 0; v < vectors; v++) {
    float16x x = load16(values + 16 * v);
    float16x rounded = __builtin_elementwise_roundeven(x * inverse);
    float16x residual = fma16(-scale, rounded, x);
    residuals = fma16(residual, residual, residuals);
    int16x integers = __builtin_convertvector(rounded, int16x);
    sums += integers;
    byte16x bytes = __builtin_convertvector(integers, byte16x);
    memcpy(quantized + 16 * v, &bytes, 16);
  }
  result->residual_norm = __builtin_sqrtf(sum16(residuals));
  result->sum = __builtin_reduce_add(sums);
}

GRANULE_INLINE void granule_pack_panel_inline(
    const granule_packing *packing, const float *weights, const float *biases, size_t latents,
    float *scratch, uint8_t *panel, const granule_panel_bounds *bounds) {
  size_t d_padded = 16 * packing->rotation->vectors, d_model = packing->d_model;
  int8_t *quantized = (int8_t *)(scratch + 2 * d_padded);
  for (size_t l = 0; l < latents; l++) {
    const float *row = weights + l * d_model;
    granule_quantized_row result;
    granule_quantize_inline(
        row, NULL, packing->scales, d_model, packing->rotation, packing->levels, scratch,
        quantized, &result);
    for (size_t i = 0; i < d_padded; i++) quantized[i] = (int8_t)(quantized[i] + packing->levels + 1);
    for (size_t i = 0; i < d_padded; i += 4)
      memcpy(panel + i * granule_panel_latents + 4 * l, quantized + i, 4);
    double8x products = {0};
    int is_zero = 1;
    for (size_t i = 0; i < d_model; i++) is_zero &= row[i] == 0;
    size_t i = 0;
    for (; i + 8 <= d_model; i += 8) {
      float8x w, c;
      memcpy(&w, row + i, sizeof w);
      memcpy(&c, packing->center + i, sizeof c);
      products += __builtin_convertvector(w, double8x) * __builtin_convertvector(c, double8x);
    }
    double product = ((products[0] + products[1]) + (products[2] + products[3])) +
                     ((products[4] + products[5]) + (products[6] + products[7]));
    for (; i < d_model; i++) product += (double)row[i] * packing->center[i];
    float bias = (float)(biases[l] + product), factor = packing->rotation_square;
    bounds->scales[l] = result.scale / factor;
    bounds->residual_norms[l] =
        packing->grow * (result.residual_norm + packing->rounding * result.norm) / factor;
    bounds->norms[l] = packing->grow * (result.norm + result.residual_norm) / factor;
    bounds->biases[l] =
        bias + 1e-6f * (__builtin_fabsf(bias) + __builtin_fabsf(biases[l])) + 1e-30f;
    // Nothing is known: it may always be active. A row of zeros is known.
    if (!(result.usable || is_zero) || !(bounds->norms[l] < 1e30f) ||
        !(bounds->biases[l] < 1e38f)) {
      bounds->scales[l] = bounds->residual_norms[l] = bounds->norms[l] = 0;
      bounds->biases[l] = __builtin_inff();
    }
  }
  for (size_t l = latents; l < granule_panel_latents; l++) {
    for (size_t i = 0; i < d_padded; i += 4)
      memset(panel + i * granule_panel_latents + 4 * l, 0, 4);
    bounds->scales[l] = bounds->residual_norms[l] = bounds->norms[l] = 0;
    bounds->biases[l] = -__builtin_inff();
  }
}

GRANULE_FOR_EACH_CPU(
    granule_quantize,
    (const float *row, const float *center, const float *scales, size_t d_model,
     const granule_rotation *rotation, int levels, float *scratch, int8_t *quantized,
     granule_quantized_row *result),
    (row, center, scales, d_model, rotation, levels, scratch, quantized, result));

void granule_quantize(
    granule_cpu cpu, const float *row, const float *center, const float *scales, size_t d_model,
    const granule_rotation *rotation, int levels, float *scratch, int8_t *quantized,
    granule_quantized_row *result) {
  granule_quantize_versions[cpu](
      row, center, scales, d_model, rotation, levels, scratch, quantized, result);
}

GRANULE_FOR_EACH_CPU(
    granule_pack_panel,
    (const granule_packing *packing, const float *weights, const float *biases, size_t latents,
     float *scratch, uint8_t *panel, const granule_panel_bounds *bounds),
    (packing, weights, biases, latents, scratch, panel, bounds));

void granule_pack_panel(
    granule_cpu cpu, const granule_packing *packing, const float *weights, const float *biases,
    size_t latents, float *scratch, uint8_t *panel, const granule_panel_bounds *bounds) {
  granule_pack_panel_versions[cpu](packing, weights, biases, latents, scratch, panel, bounds);
}
