// [64 latents of a panel, d_padded] · [tokens, d_padded]ᵀ in 8 bits → the latents that may be active

#include "cpu.h"

// The layout of a panel, four vectors of 16 latents, is written out below.
_Static_assert(gk_panel_latents == 4 * 16, "a panel is four vectors of 16 latents");

// What follows the products on CPUs without an instruction that compresses vectors. Fuses as AVX-512
// does.
GK_INLINE void gather(
    const gk_screen *screen, size_t first, const int32_t *sums, size_t count,
    gk_screened_token *token) {
  for (size_t l = 0; l < count; l++) {
    size_t j = first + l;
    float bound = __builtin_fmaf(screen->residual_norms[j], token->norm, screen->biases[j]);
    bound = __builtin_fmaf(screen->norms[j], token->residual_norm, bound);
    bound = __builtin_fmaf(screen->scales[j] * token->scale, (float)sums[l], bound);
    token->bounds[token->count] = bound;
    token->latents[token->count] = (uint32_t)j;
    token->count += !(bound < token->threshold);
  }
}

static void screen_panel_portable(
    const gk_screen *screen, size_t panel, const int8_t *inputs,
    gk_screened_token *tokens, size_t count) {
  size_t d = screen->d_padded;
  for (size_t t = 0; t < count; t++, inputs += d) {
    const uint8_t *weights = screen->weights + panel * 64 * d;
    int32_t sums[64];
    for (int l = 0; l < 64; l++) sums[l] = -screen->offset * tokens[t].sum;
    for (size_t i = 0; i < d; i += 4, weights += 256)
      for (int l = 0; l < 64; l++)
        sums[l] += weights[4 * l] * inputs[i] + weights[4 * l + 1] * inputs[i + 1] +
                   weights[4 * l + 2] * inputs[i + 2] + weights[4 * l + 3] * inputs[i + 3];
    gather(screen, panel * 64, sums, 64, tokens + t);
  }
}

#if defined(__x86_64__)
// 64 latents × 6 tokens stay in 24 registers: each pass over four dimensions takes 10 loads and 24
// multiplications, so that the multipliers never wait.
#define SCREEN_TILE_AVX512(TILE)                                                                \
  GK_AVX512 GK_INLINE void screen_tile_avx512_##TILE(   \
      const gk_screen *screen, size_t panel, const int8_t *inputs,                         \
      gk_screened_token *tokens, size_t tile) {                                            \
    size_t d = screen->d_padded;                                                                \
    const uint8_t *weights = screen->weights + panel * 64 * d;                                  \
    __m512i sums[TILE][4];                                                                      \
    _Pragma("clang loop unroll(full)") for (int t = 0; t < TILE; t++)                           \
        _Pragma("clang loop unroll(full)") for (int v = 0; v < 4; v++) sums[t][v] =             \
            _mm512_set1_epi32(-screen->offset * tokens[t].sum);                                 \
    for (size_t i = 0; i < d; i += 4, weights += 256) {                                         \
      /* Tiles take turns to fetch a quarter of the next panel each, ahead of its use. */         \
      __builtin_prefetch(weights + 64 * d + tile % 4 * 64, 0, 2);                               \
      __m512i w0 = _mm512_loadu_si512(weights), w1 = _mm512_loadu_si512(weights + 64);          \
      __m512i w2 = _mm512_loadu_si512(weights + 128), w3 = _mm512_loadu_si512(weights + 192);   \
      _Pragma("clang loop unroll(full)") for (int t = 0; t < TILE; t++) {                       \
        int32_t four;                                                                           \
        __builtin_memcpy(&four, inputs + (size_t)t * d + i, 4);                                 \
        __m512i x = _mm512_set1_epi32(four);                                                    \
        sums[t][0] = _mm512_dpbusd_epi32(sums[t][0], w0, x);                                    \
        sums[t][1] = _mm512_dpbusd_epi32(sums[t][1], w1, x);                                    \
        sums[t][2] = _mm512_dpbusd_epi32(sums[t][2], w2, x);                                    \
        sums[t][3] = _mm512_dpbusd_epi32(sums[t][3], w3, x);                                    \
      }                                                                                         \
    }                                                                                           \
    const __m512i lanes =                                                                       \
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);                \
    _Pragma("clang loop unroll(full)") for (int v = 0; v < 4; v++) {                            \
      size_t first = panel * 64 + 16 * v;                                                       \
      __m512 scales = _mm512_loadu_ps(screen->scales + first);                                  \
      __m512 biases = _mm512_loadu_ps(screen->biases + first);                                  \
      __m512 residual_norms = _mm512_loadu_ps(screen->residual_norms + first);                  \
      __m512 norms = _mm512_loadu_ps(screen->norms + first);                                    \
      __m512i indices = _mm512_add_epi32(lanes, _mm512_set1_epi32((int)first));                 \
      _Pragma("clang loop unroll(full)") for (int t = 0; t < TILE; t++) {                       \
        gk_screened_token *token = tokens + t;                                             \
        __m512 bound =                                                                          \
            _mm512_fmadd_ps(residual_norms, _mm512_set1_ps(token->norm), biases);               \
        bound = _mm512_fmadd_ps(norms, _mm512_set1_ps(token->residual_norm), bound);            \
        bound = _mm512_fmadd_ps(_mm512_mul_ps(scales, _mm512_set1_ps(token->scale)),            \
                                _mm512_cvtepi32_ps(sums[t][v]), bound);                         \
        __mmask16 kept =                                                                        \
            _mm512_cmp_ps_mask(bound, _mm512_set1_ps(token->threshold), _CMP_NLT_UQ);           \
        _mm512_storeu_ps(token->bounds + token->count, _mm512_maskz_compress_ps(kept, bound));  \
        _mm512_storeu_si512(token->latents + token->count,                                      \
                            _mm512_maskz_compress_epi32(kept, indices));                        \
        token->count += (uint32_t)__builtin_popcount(kept);                                     \
      }                                                                                         \
    }                                                                                           \
  }
SCREEN_TILE_AVX512(6)
SCREEN_TILE_AVX512(5)
SCREEN_TILE_AVX512(4)
SCREEN_TILE_AVX512(3)
SCREEN_TILE_AVX512(2)
SCREEN_TILE_AVX512(1)

GK_AVX512 static void screen_panel_avx512(
    const gk_screen *screen, size_t panel, const int8_t *inputs,
    gk_screened_token *tokens, size_t count) {
  size_t d = screen->d_padded, tile = 0;
  for (; count >= 6; count -= 6, tokens += 6, inputs += 6 * d)
    screen_tile_avx512_6(screen, panel, inputs, tokens, tile++);
  switch (count) {
    case 5: screen_tile_avx512_5(screen, panel, inputs, tokens, tile); break;
    case 4: screen_tile_avx512_4(screen, panel, inputs, tokens, tile); break;
    case 3: screen_tile_avx512_3(screen, panel, inputs, tokens, tile); break;
    case 2: screen_tile_avx512_2(screen, panel, inputs, tokens, tile); break;
    case 1: screen_tile_avx512_1(screen, panel, inputs, tokens, tile); break;
  }
}

// AVX2 multiplies unsigned by signed bytes into 16 bits that saturate: weights of 7 bits never do.
// 16 latents × 4 tokens stay in 8 registers.
#define SCREEN_TILE_AVX2(TILE)                                                                   \
  GK_AVX2 static void screen_tile_avx2_##TILE(                                              \
      const gk_screen *screen, size_t panel, const int8_t *inputs,                          \
      gk_screened_token *tokens) {                                                          \
    size_t d = screen->d_padded;                                                                 \
    const __m256i ones = _mm256_set1_epi16(1);                                                   \
    for (size_t part = 0; part < 64; part += 16) {                                               \
      const uint8_t *weights = screen->weights + panel * 64 * d + 4 * part;                      \
      __m256i sums[TILE][2];                                                                     \
      _Pragma("clang loop unroll(full)") for (int t = 0; t < TILE; t++) sums[t][0] =             \
          sums[t][1] = _mm256_set1_epi32(-screen->offset * tokens[t].sum);                       \
      for (size_t i = 0; i < d; i += 4, weights += 256) {                                        \
        __m256i w0 = _mm256_loadu_si256((const __m256i *)weights);                               \
        __m256i w1 = _mm256_loadu_si256((const __m256i *)(weights + 32));                        \
        _Pragma("clang loop unroll(full)") for (int t = 0; t < TILE; t++) {                      \
          int32_t four;                                                                          \
          __builtin_memcpy(&four, inputs + (size_t)t * d + i, 4);                                \
          __m256i x = _mm256_set1_epi32(four);                                                   \
          sums[t][0] = _mm256_add_epi32(                                                         \
              sums[t][0], _mm256_madd_epi16(_mm256_maddubs_epi16(w0, x), ones));                 \
          sums[t][1] = _mm256_add_epi32(                                                         \
              sums[t][1], _mm256_madd_epi16(_mm256_maddubs_epi16(w1, x), ones));                 \
        }                                                                                        \
      }                                                                                          \
      _Pragma("clang loop unroll(full)") for (int t = 0; t < TILE; t++) {                        \
        int32_t stored[16];                                                                      \
        _mm256_storeu_si256((__m256i *)stored, sums[t][0]);                                      \
        _mm256_storeu_si256((__m256i *)(stored + 8), sums[t][1]);                                \
        gather(screen, panel * 64 + part, stored, 16, tokens + t);                               \
      }                                                                                          \
    }                                                                                            \
  }
SCREEN_TILE_AVX2(4)
SCREEN_TILE_AVX2(1)

static void screen_panel_avx2(
    const gk_screen *screen, size_t panel, const int8_t *inputs,
    gk_screened_token *tokens, size_t count) {
  size_t d = screen->d_padded;
  for (; count >= 4; count -= 4, tokens += 4, inputs += 4 * d)
    screen_tile_avx2_4(screen, panel, inputs, tokens);
  for (; count > 0; count--, tokens++, inputs += d)
    screen_tile_avx2_1(screen, panel, inputs, tokens);
}
#endif

static void (*const screen_panel_versions[])(
    const gk_screen *, size_t, const int8_t *, gk_screened_token *, size_t) = {
    GK_LIST(screen_panel)};

void gk_screen_panel(
    gk_cpu cpu, const gk_screen *screen, size_t panel, const int8_t *inputs,
    gk_screened_token *tokens, size_t count) {
  screen_panel_versions[cpu](screen, panel, inputs, tokens, count);
}
