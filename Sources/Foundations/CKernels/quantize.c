// row: [d_model] → [16 · vectors] int8; 64 rows of an encoder → a panel of its screen
#include "cpu.h"
#include "vector.h"

typedef int32_t int16x __attribute__((vector_size(64)));
typedef int8_t byte16x __attribute__((vector_size(16)));

// y[l] = x[l ^ bit] ± x[l], minus if the bit is set in l: one stage of a Hadamard transform.
#define butterfly16(x, bit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                       \
  fma16((x), signs16[bit],                                                                       \
        __builtin_shufflevector((x), (x), a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p))

static const float16x signs16[4] = {
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
    {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
    {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};

// One stage of a Hadamard transform of whole vectors, `stride` floats apart; `width` floats side by side
// go through it alike.
GK_INLINE void butterflies(float *values, size_t count, size_t stride, size_t width) {
  for (size_t block = 0; block < count * width; block += 2 * stride * width)
    for (size_t i = block; i < block + stride * width; i += 16) {
      float16x a = load16(values + i), b = load16(values + i + stride * width);
      store16(values + i, a + b);
      store16(values + i + stride * width, a - b);
    }
}

// Hartley transform of order 2 · half + 1 of vectors `stride` floats apart, in place. Terms k and −k
// share a cosine, and a sine but for its sign: half of the products.
GK_INLINE void hartley_of_half(
    float *values, size_t stride, size_t half, const gk_rotation *rotation) {
  float16x sums[gk_odd_max / 2], differences[gk_odd_max / 2];
  float16x first = load16(values) * splat16(rotation->factor), all = first;
  for (size_t k = 0; k < half; k++) {
    float16x a = load16(values + (k + 1) * stride), b = load16(values + (2 * half - k) * stride);
    sums[k] = a + b;
    differences[k] = a - b;
    all = fma16(splat16(rotation->factor), sums[k], all);
  }
  store16(values, all);
  for (size_t j = 0; j < half; j++) {
    const float *cosines = rotation->cosines + j * half, *sines = rotation->sines + j * half;
    float16x even = first, odd = {0};
    for (size_t k = 0; k < half; k++) {
      even = fma16(splat16(cosines[k]), sums[k], even);
      odd = fma16(splat16(sines[k]), differences[k], odd);
    }
    store16(values + (j + 1) * stride, even + odd);
    store16(values + (2 * half - j) * stride, even - odd);
  }
}

// The orders of common sizes, unrolled: 768 = 2⁸ · 3, 576 = 2⁶ · 9, 2304 = 2⁸ · 9.
GK_INLINE void hartley(float *values, size_t stride, const gk_rotation *rotation) {
  switch (rotation->odd) {
    case 3: hartley_of_half(values, stride, 1, rotation); break;
    case 5: hartley_of_half(values, stride, 2, rotation); break;
    case 7: hartley_of_half(values, stride, 3, rotation); break;
    case 9: hartley_of_half(values, stride, 4, rotation); break;
    default: hartley_of_half(values, stride, rotation->odd / 2, rotation);
  }
}

// What is left of the rotation once vectors of 16 dimensions are transformed within.
// values: [vectors, width]
GK_INLINE void rotate_across(float *values, size_t width, const gk_rotation *rotation) {
  size_t vectors = rotation->vectors, odd = rotation->odd;
  for (size_t stride = odd; stride < vectors; stride *= 2)
    butterflies(values, vectors, stride, width);
  if (odd == 1) return;
  for (size_t block = 0; block < vectors; block += odd)
    for (size_t i = 0; i < width; i += 16) hartley(values + block * width + i, width, rotation);
}

// Stages within a vector: x[l] becomes x[l ^ bit] ± x[l].
#define rotated16(vector)                                                          \
  ({                                                                               \
    float16x x = (vector);                                                         \
    x = butterfly16(x, 0, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);   \
    x = butterfly16(x, 1, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);   \
    x = butterfly16(x, 2, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);   \
    butterfly16(x, 3, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);       \
  })

// Added to a float of less than 2²² in magnitude, it rounds it to the nearest integer, which is then
// the difference of the bits.
static const float to_integers = 0x1.8p23f;
enum { to_integers_bits = 0x4b400000 };

GK_INLINE void gk_quantize_inline(
    const float *row, const float *center, const float *scales, size_t d_model,
    const gk_rotation *rotation, int levels, float *scratch, int8_t *quantized,
    gk_quantized_row *result) {
  size_t vectors = rotation->vectors;
  float *values = scratch;
  size_t i = 0;
  for (; i + 16 <= d_model; i += 16) {
    float16x value = load16(row + i);
    if (center) value -= load16(center + i);
    store16(values + i, rotated16(value * load16(scales + i)));
  }
  if (i < d_model) {
    size_t left = d_model - i;
    float16x value = load16_partial(row + i, left);
    if (center) value -= load16_partial(center + i, left);
    store16(values + i, rotated16(value * load16_partial(scales + i, left)));
    i += 16;
  }
  if (i < 16 * vectors) memset(values + i, 0, (16 * vectors - i) * sizeof(float));
  rotate_across(values, 16, rotation);

  // Magnitudes order as their bits do, those of NaN last.
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
  result->norm = __builtin_elementwise_sqrt(squared_norm);
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
    float16x x = load16(values + 16 * v), shifted = fma16(x, inverse, splat16(to_integers));
    float16x residual = fma16(-scale, shifted - splat16(to_integers), x);
    residuals = fma16(residual, residual, residuals);
    int16x integers;
    memcpy(&integers, &shifted, sizeof integers);
    integers -= to_integers_bits;
    sums += integers;
    byte16x bytes = __builtin_convertvector(integers, byte16x);
    memcpy(quantized + 16 * v, &bytes, 16);
  }
  result->residual_norm = __builtin_elementwise_sqrt(sum16(residuals));
  result->sum = __builtin_reduce_add(sums);
}

// rows[i] is row i of a matrix of 16 × 16; becomes its transpose.
GK_INLINE void transpose16(float16x *rows) {
  float16x pairs[16], fours[16], eights[16];
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i += 2) {
    pairs[i] = __builtin_shufflevector(
        rows[i], rows[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    pairs[i + 1] = __builtin_shufflevector(
        rows[i], rows[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  // fours[4 g + c]: in its quarter q column 4 q + c of rows 4 g ... 4 g + 3.
  _Pragma("clang loop unroll(full)") for (int g = 0; g < 16; g += 4)
      _Pragma("clang loop unroll(full)") for (int half = 0; half < 2; half++) {
    float16x a = pairs[g + half], b = pairs[g + 2 + half];
    fours[g + 2 * half] = __builtin_shufflevector(
        a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    fours[g + 2 * half + 1] = __builtin_shufflevector(
        a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  _Pragma("clang loop unroll(full)") for (int g = 0; g < 16; g += 8)
      _Pragma("clang loop unroll(full)") for (int c = 0; c < 4; c++) {
    float16x a = fours[g + c], b = fours[g + 4 + c];
    eights[g + c] = __builtin_shufflevector(
        a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    eights[g + 4 + c] = __builtin_shufflevector(
        a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
  _Pragma("clang loop unroll(full)") for (int c = 0; c < 8; c++) {
    float16x a = eights[c], b = eights[8 + c];
    rows[c] = __builtin_shufflevector(
        a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    rows[8 + c] = __builtin_shufflevector(
        a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
}

// The elements whose mask is -1; 0 for those whose mask is 0.
#define masked16(vector, mask)         \
  ({                                   \
    float16x masked = (vector);        \
    int16x masked_bits;                \
    memcpy(&masked_bits, &masked, 64); \
    masked_bits &= (mask);             \
    memcpy(&masked, &masked_bits, 64); \
    masked;                            \
  })
#define sum_of4(parts) (((parts)[0] + (parts)[1]) + ((parts)[2] + (parts)[3]))

// 16 latents side by side, so that every sum over dimensions stays within its lane.
// scratch: [d_padded, 16]; columns: receive their dimensions, four at a time, [d_padded / 4] × 64 × 4.
GK_INLINE void pack_16_latents(
    const gk_packing *packing, const float *weights, const float *biases, size_t latents,
    float *scratch, uint8_t *columns, const gk_panel_bounds *bounds) {
  size_t d_padded = 16 * packing->rotation->vectors, d_model = packing->d_model;
  const float *rows[16];
  for (size_t l = 0; l < 16; l++) rows[l] = weights + (l < latents ? l : 0) * d_model;
  // Sums over dimensions are in four parts, so that none waits for the last.
  float16x raw_squares[4] = {{0}, {0}, {0}, {0}}, products[4] = {{0}, {0}, {0}, {0}};
  size_t i = 0;
  for (; i < d_model; i += 16) {
    float16x block[16];
    if (d_model - i >= 16)
      _Pragma("clang loop unroll(full)") for (int l = 0; l < 16; l++) block[l] = load16(rows[l] + i);
    else
      for (int l = 0; l < 16; l++) block[l] = load16_partial(rows[l] + i, d_model - i);
    // Those of the next 16 latents come while these are worked on.
    for (int l = 0; l < 16; l++) __builtin_prefetch(rows[l] + 16 * d_model + i, 0, 2);
    transpose16(block);
    _Pragma("clang loop unroll(full)") for (int c = 0; c < 16; c++) {
      float16x w = block[c];
      products[c % 4] = fma16(splat16(packing->center[i + c]), w, products[c % 4]);
      raw_squares[c % 4] = fma16(w, w, raw_squares[c % 4]);
      block[c] = w * splat16(packing->scales[i + c]);
    }
    _Pragma("clang loop unroll(full)") for (int bit = 1; bit < 16; bit *= 2)
        _Pragma("clang loop unroll(full)") for (int c = 0; c < 16; c++) {
      if (c & bit) continue;
      float16x a = block[c], b = block[c | bit];
      block[c] = a + b;
      block[c | bit] = a - b;
    }
    _Pragma("clang loop unroll(full)") for (int c = 0; c < 16; c++)
        store16(scratch + 16 * (i + c), block[c]);
  }
  if (i < d_padded) memset(scratch + 16 * i, 0, 16 * (d_padded - i) * sizeof(float));
  rotate_across(scratch, 256, packing->rotation);

  float16x squares[4] = {{0}, {0}, {0}, {0}}, residuals[4] = {{0}, {0}, {0}, {0}};
  int16x largest = {0};
  for (i = 0; i < d_padded; i += 4)
    _Pragma("clang loop unroll(full)") for (int c = 0; c < 4; c++) {
      float16x x = load16(scratch + 16 * (i + c));
      int16x bits;
      memcpy(&bits, &x, sizeof bits);
      largest = __builtin_elementwise_max(largest, bits & 0x7fffffff);
      squares[c] = fma16(x, x, squares[c]);
    }
  float16x maximum, squared_norm = sum_of4(squares);
  memcpy(&maximum, &largest, sizeof maximum);
  // Also false for NaN; see gk_quantize.
  int16x usable = (squared_norm > 1e-24f) & (squared_norm < 1e38f);
  float16x levels = splat16((float)packing->levels);
  float16x scale = masked16(maximum / levels, usable), inverse = masked16(levels / maximum, usable);
  float16x shift = splat16(to_integers), offset = splat16(to_integers + packing->levels + 1);
  for (i = 0; i < d_padded; i += 4) {
    int16x bytes = {0};
    _Pragma("clang loop unroll(full)") for (int c = 0; c < 4; c++) {
      float16x x = load16(scratch + 16 * (i + c)), shifted = fma16(x, inverse, shift);
      float16x residual = fma16(-scale, shifted - shift, x);
      residuals[c] = fma16(residual, residual, residuals[c]);
      int16x bits;
      shifted += offset - shift;
      memcpy(&bits, &shifted, sizeof bits);
      bytes |= (bits & 255) << (8 * c);
    }
    memcpy(columns + i * gk_panel_latents, &bytes, sizeof bytes);
  }
  float16x residual_norm = __builtin_elementwise_sqrt(sum_of4(residuals));
  float16x norm = __builtin_elementwise_sqrt(squared_norm);
  float16x raw_norm = __builtin_elementwise_sqrt(sum_of4(raw_squares) + splat16(1e-30f));
  float16x product = sum_of4(products);

  for (size_t l = 0; l < latents; l++) {
    float bias = biases[l] + product[l], factor = packing->rotation_square;
    bounds->scales[l] = scale[l] / factor;
    bounds->residual_norms[l] =
        packing->grow * (residual_norm[l] + packing->rounding * norm[l]) / factor;
    bounds->norms[l] = packing->grow * (norm[l] + residual_norm[l]) / factor;
    bounds->raw_norms[l] = 1.01f * raw_norm[l];
    bounds->biases[l] = bias + 1e-6f * (__builtin_fabsf(bias) + __builtin_fabsf(biases[l])) +
                        packing->center_rounding * bounds->raw_norms[l] + 1e-30f;
    int is_zero = !usable[l];
    for (i = 0; is_zero && i < d_model; i++) is_zero = rows[l][i] == 0;
    // Nothing is known: it may always be active. A row of zeros is known.
    if (!(usable[l] || is_zero) || !(bounds->norms[l] < 1e30f) || !(bounds->biases[l] < 1e38f)) {
      bounds->scales[l] = bounds->residual_norms[l] = bounds->norms[l] = 0;
      bounds->biases[l] = __builtin_inff();
    }
  }
}

GK_INLINE void gk_pack_panel_inline(
    const gk_packing *packing, const float *weights, const float *biases, size_t latents,
    float *scratch, uint8_t *panel, const gk_panel_bounds *bounds) {
  for (size_t first = 0; first < gk_panel_latents; first += 16) {
    gk_panel_bounds part = {
        bounds->scales + first, bounds->biases + first, bounds->residual_norms + first,
        bounds->norms + first, bounds->raw_norms + first};
    size_t count = latents > first ? latents - first : 0;
    if (count > 16) count = 16;
    if (count > 0)
      pack_16_latents(
          packing, weights + first * packing->d_model, biases + first, count, scratch,
          panel + 4 * first, &part);
    else
      for (size_t i = 0; i < 4 * packing->rotation->vectors; i++)
        memset(panel + i * 4 * gk_panel_latents + 4 * first, 0, 64);
    for (size_t l = count; l < 16; l++) {
      part.scales[l] = part.residual_norms[l] = part.norms[l] = part.raw_norms[l] = 0;
      part.biases[l] = -__builtin_inff();
    }
  }
}

GK_FOR_EACH_CPU(
    gk_quantize,
    (const float *row, const float *center, const float *scales, size_t d_model,
     const gk_rotation *rotation, int levels, float *scratch, int8_t *quantized,
     gk_quantized_row *result),
    (row, center, scales, d_model, rotation, levels, scratch, quantized, result));

void gk_quantize(
    gk_cpu cpu, const float *row, const float *center, const float *scales, size_t d_model,
    const gk_rotation *rotation, int levels, float *scratch, int8_t *quantized,
    gk_quantized_row *result) {
  gk_quantize_versions[cpu](
      row, center, scales, d_model, rotation, levels, scratch, quantized, result);
}

GK_FOR_EACH_CPU(
    gk_pack_panel,
    (const gk_packing *packing, const float *weights, const float *biases, size_t latents,
     float *scratch, uint8_t *panel, const gk_panel_bounds *bounds),
    (packing, weights, biases, latents, scratch, panel, bounds));

void gk_pack_panel(
    gk_cpu cpu, const gk_packing *packing, const float *weights, const float *biases,
    size_t latents, float *scratch, uint8_t *panel, const gk_panel_bounds *bounds) {
  gk_pack_panel_versions[cpu](packing, weights, biases, latents, scratch, panel, bounds);
}
