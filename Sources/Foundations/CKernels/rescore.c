// [latents, d_model] · [tokens, d_model]ᵀ → pre-activations in the one order of summation that all
// encoders share: 16 partial sums, sum l of the dimensions l modulo 16, added pairwise; then the bias

#include "cpu.h"
#include "vector.h"

// Adds the products of 16 dimensions to the sums of LATENTS × TOKENS pairs.
#define STEP(LATENTS, TOKENS, load, rows, inputs)                                             \
  {                                                                                           \
    float16x w[LATENTS];                                                                      \
    _Pragma("clang loop unroll(full)") for (int l = 0; l < LATENTS; l++) w[l] = load(rows[l]); \
    _Pragma("clang loop unroll(full)") for (int t = 0; t < TOKENS; t++) {                     \
      float16x x = load(inputs[t]);                                                           \
      _Pragma("clang loop unroll(full)") for (int l = 0; l < LATENTS; l++) sums[t][l] =       \
          fma16(w[l], x, sums[t][l]);                                                         \
    }                                                                                         \
  }
#define load_here(row) load16((row) + i)
#define load_tail(row) load16_partial((row) + i, d_model - i)

// values[t * LATENTS + l] = rows[l] · inputs[t]. One vector of sums a pair: as many pairs as there are
// registers hide the latency, and each load serves several of them.
#define DOTS(LATENTS, TOKENS)                                                                 \
  (const float *const *rows, const float *const *inputs, size_t d_model, float *values) {     \
    float16x sums[TOKENS][LATENTS];                                                           \
    _Pragma("clang loop unroll(full)") for (int t = 0; t < TOKENS; t++)                       \
        _Pragma("clang loop unroll(full)") for (int l = 0; l < LATENTS; l++) sums[t][l] =     \
            (float16x){0};                                                                    \
    size_t i = 0;                                                                             \
    for (; i + 16 <= d_model; i += 16) STEP(LATENTS, TOKENS, load_here, rows, inputs)         \
    if (i < d_model) STEP(LATENTS, TOKENS, load_tail, rows, inputs)                           \
    float16x *all = &sums[0][0];                                                              \
    _Pragma("clang loop unroll(full)") for (int s = 0; s < LATENTS * TOKENS; s += 4) {        \
      float4x four = sum16_of4(                                                               \
          all[s], s + 1 < LATENTS * TOKENS ? all[s + 1] : all[s],                             \
          s + 2 < LATENTS * TOKENS ? all[s + 2] : all[s],                                     \
          s + 3 < LATENTS * TOKENS ? all[s + 3] : all[s]);                                    \
      memcpy(values + s, &four, sizeof(float) * (LATENTS * TOKENS - s < 4 ? LATENTS * TOKENS - s : 4)); \
    }                                                                                         \
  }

// Up to eight tokens of a latent share the loads of its row; a row that is needed soon is fetched
// meanwhile.
#define RESCORE(VERSION, TARGET)                                                              \
  TARGET static void dots_1_##VERSION DOTS(1, 1)                                              \
  TARGET static void dots_2_##VERSION DOTS(1, 2)                                              \
  TARGET static void dots_3_##VERSION DOTS(1, 3)                                              \
  TARGET static void dots_4_##VERSION DOTS(1, 4)                                              \
  TARGET static void dots_5_##VERSION DOTS(1, 5)                                              \
  TARGET static void dots_6_##VERSION DOTS(1, 6)                                              \
  TARGET static void dots_7_##VERSION DOTS(1, 7)                                              \
  TARGET static void dots_8_##VERSION DOTS(1, 8)                                              \
  TARGET static void rescore_##VERSION(                                                       \
      const float *weights, const float *biases, const float *inputs, size_t d_model,         \
      const gk_pair *pairs, size_t count, float *values) {                               \
    static void (*const dots[])(const float *const *, const float *const *, size_t, float *) = \
        {dots_1_##VERSION, dots_2_##VERSION, dots_3_##VERSION, dots_4_##VERSION,              \
         dots_5_##VERSION, dots_6_##VERSION, dots_7_##VERSION, dots_8_##VERSION};             \
    for (size_t first = 0; first < count;) {                                                  \
      uint32_t latent = pairs[first].latent;                                                  \
      const float *row = weights + (size_t)latent * d_model, *tile[8];                        \
      float scores[8];                                                                        \
      size_t size = 0;                                                                        \
      for (; size < 8 && first + size < count && pairs[first + size].latent == latent; size++) \
        tile[size] = inputs + (size_t)pairs[first + size].token * d_model;                    \
      if (first + size + 8 < count && pairs[first + size + 8].latent != latent) {             \
        const float *soon = weights + (size_t)pairs[first + size + 8].latent * d_model;       \
        for (size_t i = 0; i < d_model; i += 16) __builtin_prefetch(soon + i, 0, 2);          \
      }                                                                                       \
      dots[size - 1](&row, tile, d_model, scores);                                            \
      for (size_t p = 0; p < size; p++)                                                       \
        values[pairs[first + p].slot] = scores[p] + biases[latent];                           \
      first += size;                                                                          \
    }                                                                                         \
  }

// Appends those of up to four latents that reach a token's threshold and are above their floors. Without
// a branch: if many are kept, no CPU could foresee which.
#define APPEND(VERSION, TARGET)                                                               \
  TARGET static inline void append_##VERSION(                                                 \
      gk_screened_token *token, const float *scores, const float *biases,                \
      const float *floors, size_t first, size_t latents) {                                    \
    for (size_t l = 0; l < latents; l++) {                                                    \
      float value = scores[l] + biases[l];                                                    \
      token->bounds[token->count] = value;                                                    \
      token->latents[token->count] = (uint32_t)(first + l);                                   \
      token->count += value >= token->threshold && (!floors || value > floors[l]);            \
    }                                                                                         \
  }
// Four latents' rows stay in the fastest cache while the tokens pass by.
#define SCORE_PANEL(VERSION, TARGET, LATENTS, TOKENS)                                         \
  TARGET static void dots_tile_##VERSION DOTS(LATENTS, TOKENS)                                \
  TARGET static void score_panel_##VERSION(                                                   \
      const float *weights, const float *biases, const float *floors, size_t first,           \
      size_t end, const float *inputs, size_t d_model, gk_screened_token *tokens,        \
      size_t count) {                                                                         \
    for (size_t latent = first; latent < end; latent += LATENTS) {                            \
      const float *rows[LATENTS];                                                             \
      size_t latents = end - latent < LATENTS ? end - latent : LATENTS;                       \
      float bias[LATENTS];                                                                    \
      for (size_t l = 0; l < LATENTS; l++) {                                                  \
        rows[l] = weights + (l < latents ? latent + l : latent) * d_model;                    \
        bias[l] = biases[l < latents ? latent + l : latent];                                  \
      }                                                                                       \
      for (size_t start = 0; start < count; start += TOKENS) {                                \
        const float *tile[TOKENS];                                                            \
        float scores[TOKENS * LATENTS];                                                       \
        size_t size = count - start < TOKENS ? count - start : TOKENS;                        \
        for (size_t t = 0; t < TOKENS; t++)                                                   \
          tile[t] = inputs + (t < size ? start + t : start) * d_model;                        \
        dots_tile_##VERSION(rows, tile, d_model, scores);                                     \
        for (size_t t = 0; t < size; t++) {                                                   \
          append_##VERSION(                                                                   \
              tokens + start + t, scores + t * LATENTS, bias, floors ? floors + latent : NULL, \
              latent, latents);                                                               \
        }                                                                                     \
      }                                                                                       \
    }                                                                                         \
  }

APPEND(portable, )
RESCORE(portable, )
SCORE_PANEL(portable, , 1, 1)

#if defined(__x86_64__)
GK_AVX512 static inline void append_avx512(
    gk_screened_token *token, const float *scores, const float *biases, const float *floors,
    size_t first, size_t latents) {
  __mmask8 kept = (__mmask8)((1u << latents) - 1);
  __m128 values = _mm_add_ps(_mm_loadu_ps(scores), _mm_loadu_ps(biases));
  __m128i indices = _mm_add_epi32(_mm_setr_epi32(0, 1, 2, 3), _mm_set1_epi32((int)first));
  if (floors)
    kept = _mm_mask_cmp_ps_mask(kept, values, _mm_maskz_loadu_ps(kept, floors), _CMP_GT_OQ);
  kept = _mm_mask_cmp_ps_mask(kept, values, _mm_set1_ps(token->threshold), _CMP_GE_OQ);
  _mm_storeu_ps(token->bounds + token->count, _mm_maskz_compress_ps(kept, values));
  _mm_storeu_si128(
      (__m128i *)(token->latents + token->count), _mm_maskz_compress_epi32(kept, indices));
  token->count += (uint32_t)__builtin_popcount(kept);
}

APPEND(avx2, GK_AVX2)
RESCORE(avx2, GK_AVX2)
SCORE_PANEL(avx2, GK_AVX2, 2, 3)
RESCORE(avx512, GK_AVX512)
SCORE_PANEL(avx512, GK_AVX512, 4, 6)
#endif

static void (*const rescore_versions[])(
    const float *, const float *, const float *, size_t, const gk_pair *, size_t, float *) = {
    GK_LIST(rescore)};

void gk_rescore(
    gk_cpu cpu, const float *weights, const float *biases, const float *inputs,
    size_t d_model, const gk_pair *pairs, size_t count, float *values) {
  rescore_versions[cpu](weights, biases, inputs, d_model, pairs, count, values);
}

static void (*const score_panel_versions[])(
    const float *, const float *, const float *, size_t, size_t, const float *, size_t,
    gk_screened_token *, size_t) = {GK_LIST(score_panel)};

void gk_score_panel(
    gk_cpu cpu, const float *weights, const float *biases, const float *floors, size_t first,
    size_t end, const float *inputs, size_t d_model, gk_screened_token *tokens,
    size_t count) {
  score_panel_versions[cpu](
      weights, biases, floors, first, end, inputs, d_model, tokens, count);
}

GK_KERNEL(
    float, gk_pre_activation_reference,
    (const float *row, const float *input, size_t d_model, float bias),
    (row, input, d_model, bias)) {
  float sums[16] = {0};
  for (size_t i = 0; i < d_model; i++) sums[i % 16] = __builtin_fmaf(row[i], input[i], sums[i % 16]);
  for (int half = 8; half >= 1; half /= 2)
    for (int l = 0; l < half; l++) sums[l] += sums[l + half];
  return sums[0] + bias;
}
