// The largest of some values, and the latents that reach them

#include "cpu.h"
#include "vector.h"

typedef int32_t int16x __attribute__((vector_size(64)));

// Positive floats order as their bits do, and all that is not positive has lesser ones: so the k-th
// largest is found by halving the range of bits, each time counting who is above. Once exactly k are
// above, the least of them is it.
GK_KERNEL(
    float, gk_kth_largest_positive,
    (const float *values, size_t count, size_t k), (values, count, k)) {
  if (count < k) return 0;
  int32_t low = 1, high = 0;  // at least k reach low; fewer than k reach beyond high
  int16x largest = {0}, least_bits = {0};
  size_t whole = count / 16 * 16;
  int32_t tail[16] = {0};
  memcpy(tail, values + whole, (count - whole) * sizeof(float));
  int16x last;
  memcpy(&last, tail, 64);
#define for_each16(bits, body)                     \
  for (size_t i = 0; i < whole; i += 16) {         \
    int16x bits;                                   \
    memcpy(&bits, values + i, 64);                 \
    body;                                          \
  }                                                \
  {                                                \
    int16x bits = last;                            \
    body;                                          \
  }
#define count_reaching(floor)                                     \
  ({                                                              \
    int16x counts = {0}, floors = least_bits + (floor);           \
    for_each16(bits, counts -= (bits >= floors));                 \
    (size_t)__builtin_reduce_add(counts);                         \
  })
  for_each16(bits, largest = __builtin_elementwise_max(largest, bits));
  high = __builtin_reduce_max(largest);
  if (high < low || count_reaching(low) < k) return 0;
  // Most often the k-th is within a factor of 2⁸ of the largest.
  int32_t near = high - (8 << 23);
  if (near > low && count_reaching(near) >= k) low = near;
  while (low < high) {
    int32_t middle = high - (high - low) / 2;
    size_t reaching = count_reaching(middle);
    if (reaching == k) {
      int16x least = least_bits + high, floors = least_bits + middle;
      for_each16(bits, {
        int16x is_above = (bits >= floors);
        least = __builtin_elementwise_min(least, (bits & is_above) | (least & ~is_above));
      });
      low = high = __builtin_reduce_min(least);
    } else if (reaching > k) low = middle;
    else high = middle - 1;
  }
  float kth;
  memcpy(&kth, &low, sizeof kth);
  return kth;
}

size_t gk_keep_largest(
    float *values, uint32_t *latents, size_t count, size_t k, float *kth_largest) {
  float kth = gk_kth_largest_positive(values, count, k);
  *kth_largest = kth;
  size_t above = 0, kept = 0;
  for (size_t i = 0; i < count; i++) above += values[i] > kth;
  // Of values equal to the k-th, the first in order; kth is 0 if fewer than k are positive.
  size_t equal_left = kth > 0 ? k - above : 0;
  for (size_t i = 0; i < count; i++) {
    int is_equal = values[i] == kth && equal_left > 0;
    equal_left -= (size_t)is_equal;
    values[kept] = values[i];
    latents[kept] = latents[i];
    kept += (values[i] > kth) | is_equal;
  }
  return kept;
}

size_t gk_keep_above(
    float *values, uint32_t *latents, size_t count, const float *thresholds) {
  size_t kept = 0;
  for (size_t i = 0; i < count; i++) {
    float value = values[i], threshold = thresholds ? thresholds[latents[i]] : 0;
    values[kept] = value;
    latents[kept] = latents[i];
    kept += value > threshold;
  }
  return kept;
}

static uint32_t drop_below_portable(
    float *bounds, uint32_t *latents, uint32_t count, float threshold) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < count; i++) {
    float bound = bounds[i];
    bounds[kept] = bound;
    latents[kept] = latents[i];
    kept += !(bound < threshold);
  }
  return kept;
}

// estimates[i] = bounds[i] less the error that it allows for; returns the mean of those errors.
static float estimate_portable(
    const gk_screened_token *token, const gk_screen *screen, float *estimates) {
  float errors = 0;
  for (uint32_t i = 0; i < token->count; i++) {
    uint32_t j = token->latents[i];
    float error = __builtin_fmaf(
        screen->residual_norms[j], token->norm, screen->norms[j] * token->residual_norm);
    estimates[i] = token->bounds[i] - error;
    errors += error;
  }
  return errors / (float)token->count;
}

#if defined(__x86_64__)
GK_AVX512 static uint32_t drop_below_avx512(
    float *bounds, uint32_t *latents, uint32_t count, float threshold) {
  uint32_t kept = 0;
  __m512 floor = _mm512_set1_ps(threshold);
  for (uint32_t i = 0; i < count; i += 16) {
    __mmask16 lanes = count - i >= 16 ? 0xffff : (__mmask16)((1u << (count - i)) - 1);
    __m512 bound = _mm512_maskz_loadu_ps(lanes, bounds + i);
    __m512i latent = _mm512_maskz_loadu_epi32(lanes, latents + i);
    lanes = _mm512_mask_cmp_ps_mask(lanes, bound, floor, _CMP_NLT_UQ);
    // Writes no further than what has been read.
    _mm512_storeu_ps(bounds + kept, _mm512_maskz_compress_ps(lanes, bound));
    _mm512_storeu_si512(latents + kept, _mm512_maskz_compress_epi32(lanes, latent));
    kept += (uint32_t)__builtin_popcount(lanes);
  }
  return kept;
}

GK_AVX512 static float estimate_avx512(
    const gk_screened_token *token, const gk_screen *screen, float *estimates) {
  __m512 errors = _mm512_setzero_ps(), zero = errors;
  __m512 norm = _mm512_set1_ps(token->norm), residual = _mm512_set1_ps(token->residual_norm);
  for (uint32_t i = 0; i < token->count; i += 16) {
    __mmask16 lanes =
        token->count - i >= 16 ? 0xffff : (__mmask16)((1u << (token->count - i)) - 1);
    __m512i latents = _mm512_maskz_loadu_epi32(lanes, token->latents + i);
    __m512 error = _mm512_fmadd_ps(
        _mm512_mask_i32gather_ps(zero, lanes, latents, screen->residual_norms, 4), norm,
        _mm512_mul_ps(_mm512_mask_i32gather_ps(zero, lanes, latents, screen->norms, 4), residual));
    __m512 bounds = _mm512_maskz_loadu_ps(lanes, token->bounds + i);
    _mm512_mask_storeu_ps(estimates + i, lanes, _mm512_sub_ps(bounds, error));
    errors = _mm512_mask_add_ps(errors, lanes, errors, error);
  }
  return _mm512_reduce_add_ps(errors) / (float)token->count;
}
#define for_cpu(cpu, name) ((cpu) == gk_cpu_avx512 ? name##_avx512 : name##_portable)
#else
#define for_cpu(cpu, name) ((void)(cpu), name##_portable)
#endif

void gk_raise_threshold(
    gk_cpu cpu, gk_screened_token *token, size_t k, const gk_screen *screen,
    float margin, float *scratch) {
  if (token->count < k) return;
  float threshold;
  if (screen) {
    float error = for_cpu(cpu, estimate)(token, screen, scratch);
    float kth = gk_kth_largest_positive(scratch, token->count, k);
    // Latents of which nothing is known have infinite bounds, and errors that are NaN.
    if (!(kth < __builtin_inff()) || !(error >= 0)) return;
    threshold = kth - margin * error;
  } else threshold = gk_kth_largest_positive(token->bounds, token->count, k);
  if (!(threshold > token->threshold)) return;
  token->threshold = threshold;
  token->count =
      for_cpu(cpu, drop_below)(token->bounds, token->latents, token->count, threshold);
}
