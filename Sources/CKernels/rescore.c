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

// values[p] = rows[p] · inputs[p]: pairs that share nothing.
#define DOTS_APART(PAIRS)                                                                     \
  (const float *const *rows, const float *const *inputs, size_t d_model, float *values) {     \
    float16x sums[PAIRS];                                                                     \
    _Pragma("clang loop unroll(full)") for (int p = 0; p < PAIRS; p++) sums[p] = (float16x){0}; \
    size_t i = 0;                                                                             \
    for (; i + 16 <= d_model; i += 16)                                                        \
      _Pragma("clang loop unroll(full)") for (int p = 0; p < PAIRS; p++) sums[p] =            \
          fma16(load_here(rows[p]), load_here(inputs[p]), sums[p]);                           \
    if (i < d_model)                                                                          \
      _Pragma("clang loop unroll(full)") for (int p = 0; p < PAIRS; p++) sums[p] =            \
          fma16(load_tail(rows[p]), load_tail(inputs[p]), sums[p]);                           \
    _Pragma("clang loop unroll(full)") for (int p = 0; p < PAIRS; p += 4) {                   \
      float4x four = sum16_of4(sums[p], sums[p + 1], sums[p + 2], sums[p + 3]);               \
      memcpy(values + p, &four, sizeof four);                                                 \
    }                                                                                         \
  }

// Eight pairs at a time hide the latency; those of one latent share the loads of its row. What the
// next pairs need is fetched meanwhile.
#define RESCORE(VERSION, TARGET)                                                              \
  TARGET static void dots_1x8_##VERSION DOTS(1, 8)                                            \
  TARGET static void dots_apart_##VERSION DOTS_APART(8)                                       \
  TARGET static void rescore_##VERSION(                                                       \
      const float *weights, const float *biases, const float *inputs, size_t d_model,         \
      const granule_pair *pairs, size_t count, float *values) {                               \
    for (size_t first = 0; first < count; first += 8) {                                       \
      size_t size = count - first < 8 ? count - first : 8;                                    \
      const float *rows[8], *tile[8];                                                         \
      float scores[8];                                                                        \
      int is_shared = 1;                                                                      \
      for (size_t p = 0; p < 8; p++) {                                                        \
        const granule_pair *pair = pairs + first + (p < size ? p : 0);                        \
        rows[p] = weights + (size_t)pair->latent * d_model;                                   \
        tile[p] = inputs + (size_t)pair->token * d_model;                                     \
        is_shared &= rows[p] == rows[0];                                                      \
      }                                                                                       \
      for (size_t p = first + 8; p < first + 16 && p < count; p++)                            \
        if (pairs[p].latent != pairs[p - 1].latent) {                                         \
          const float *row = weights + (size_t)pairs[p].latent * d_model;                     \
          for (size_t i = 0; i < d_model; i += 16) __builtin_prefetch(row + i, 0, 2);         \
        }                                                                                     \
      if (is_shared) dots_1x8_##VERSION(rows, tile, d_model, scores);                         \
      else dots_apart_##VERSION(rows, tile, d_model, scores);                                 \
      for (size_t p = 0; p < size; p++)                                                       \
        values[pairs[first + p].slot] = scores[p] + biases[pairs[first + p].latent];          \
    }                                                                                         \
  }

// Four latents' rows stay in the fastest cache while the tokens pass by.
#define SCORE_PANEL(VERSION, TARGET, LATENTS, TOKENS)                                         \
  TARGET static void dots_tile_##VERSION DOTS(LATENTS, TOKENS)                                \
  TARGET static void score_panel_##VERSION(                                                   \
      const float *weights, const float *biases, const float *floors, size_t first,           \
      size_t end, const float *inputs, size_t d_model, granule_screened_token *tokens,        \
      size_t count) {                                                                         \
    for (size_t latent = first; latent < end; latent += LATENTS) {                            \
      const float *rows[LATENTS];                                                             \
      size_t latents = end - latent < LATENTS ? end - latent : LATENTS;                       \
      for (size_t l = 0; l < LATENTS; l++)                                                    \
        rows[l] = weights + (l < latents ? latent + l : latent) * d_model;                    \
      for (size_t start = 0; start < count; start += TOKENS) {                                \
        const float *tile[TOKENS];                                                            \
        float scores[TOKENS * LATENTS];                                                       \
        size_t size = count - start < TOKENS ? count - start : TOKENS;                        \
        for (size_t t = 0; t < TOKENS; t++)                                                   \
          tile[t] = inputs + (t < size ? start + t : start) * d_model;                        \
        dots_tile_##VERSION(rows, tile, d_model, scores);                                     \
        for (size_t t = 0; t < size; t++) {                                                   \
          granule_screened_token *token = tokens + start + t;                                 \
          for (size_t l = 0; l < latents; l++) {                                              \
            float value = scores[t * LATENTS + l] + biases[latent + l];                       \
            token->bounds[token->count] = value;                                              \
            token->latents[token->count] = (uint32_t)(latent + l);                            \
            token->count += value >= token->threshold && (!floors || value > floors[latent + l]); \
          }                                                                                   \
        }                                                                                     \
      }                                                                                       \
    }                                                                                         \
  }

RESCORE(avx512, GRANULE_AVX512)
RESCORE(avx2, GRANULE_AVX2)
RESCORE(portable, )
SCORE_PANEL(avx512, GRANULE_AVX512, 4, 6)
SCORE_PANEL(avx2, GRANULE_AVX2, 2, 3)
SCORE_PANEL(portable, , 1, 1)

void granule_rescore(
    granule_cpu cpu, const float *weights, const float *biases, const float *inputs,
    size_t d_model, const granule_pair *pairs, size_t count, float *values) {
  switch (cpu) {
    case granule_cpu_portable:
      rescore_portable(weights, biases, inputs, d_model, pairs, count, values);
      break;
    case granule_cpu_avx2:
      rescore_avx2(weights, biases, inputs, d_model, pairs, count, values);
      break;
    case granule_cpu_avx512:
      rescore_avx512(weights, biases, inputs, d_model, pairs, count, values);
      break;
  }
}

void granule_score_panel(
    granule_cpu cpu, const float *weights, const float *biases, const float *floors, size_t first,
    size_t end, const float *inputs, size_t d_model, granule_screened_token *tokens,
    size_t count) {
  switch (cpu) {
    case granule_cpu_portable:
      score_panel_portable(
          weights, biases, floors, first, end, inputs, d_model, tokens, count);
      break;
    case granule_cpu_avx2:
      score_panel_avx2(weights, biases, floors, first, end, inputs, d_model, tokens, count);
      break;
    case granule_cpu_avx512:
      score_panel_avx512(weights, biases, floors, first, end, inputs, d_model, tokens, count);
      break;
  }
}

float granule_pre_activation_reference(
    const float *row, const float *input, size_t d_model, float bias) {
  float sums[16] = {0};
  for (size_t i = 0; i < d_model; i++) sums[i % 16] = __builtin_fmaf(row[i], input[i], sums[i % 16]);
  for (int half = 8; half >= 1; half /= 2)
    for (int l = 0; l < half; l++) sums[l] += sums[l + half];
  return sums[0] + bias;
}
