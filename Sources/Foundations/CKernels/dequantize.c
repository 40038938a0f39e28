// The quantised block formats of GGML, as float32. Scales are half precision and quants a few bits,
// so that every product is exact: formats without an offset do not round, the others round once.
#include "CGranuleKernels.h"
#include "vector.h"

GK_INLINE float half_at(const uint8_t *bytes) {
  _Float16 half;
  memcpy(&half, bytes, 2);
  return (float)half;
}

// Q4_0, 32 elements: half d; 16 bytes, byte j holds element j below and element j + 16 above.
// Element = d (q - 8).
GK_KERNEL(
    void, gk_float32_from_q4_0, (const void *from, float *to, size_t blocks), (from, to, blocks)) {
  const uint8_t *block = from;
  for (size_t b = 0; b < blocks; b++, block += 18, to += 32) {
    float d = half_at(block);
    for (int j = 0; j < 16; j++) {
      to[j] = d * (float)((block[2 + j] & 15) - 8);
      to[j + 16] = d * (float)((block[2 + j] >> 4) - 8);
    }
  }
}

float gk_q4_0_element(const void *from, size_t index) {
  const uint8_t *block = (const uint8_t *)from + index / 32 * 18;
  size_t j = index % 32;
  int q = j < 16 ? block[2 + j] & 15 : block[2 + j - 16] >> 4;
  return half_at(block) * (float)(q - 8);
}

// Q4_1, 32 elements: half d, half m; 16 bytes as in Q4_0. Element = d q + m.
GK_KERNEL(
    void, gk_float32_from_q4_1, (const void *from, float *to, size_t blocks), (from, to, blocks)) {
  const uint8_t *block = from;
  for (size_t b = 0; b < blocks; b++, block += 20, to += 32) {
    float d = half_at(block), m = half_at(block + 2);
    for (int j = 0; j < 16; j++) {
      to[j] = d * (float)(block[4 + j] & 15) + m;
      to[j + 16] = d * (float)(block[4 + j] >> 4) + m;
    }
  }
}

float gk_q4_1_element(const void *from, size_t index) {
  const uint8_t *block = (const uint8_t *)from + index / 32 * 20;
  size_t j = index % 32;
  int q = j < 16 ? block[4 + j] & 15 : block[4 + j - 16] >> 4;
  return half_at(block) * (float)q + half_at(block + 2);
}

// Q8_0, 32 elements: half d; 32 signed bytes. Element = d q.
GK_KERNEL(
    void, gk_float32_from_q8_0, (const void *from, float *to, size_t blocks), (from, to, blocks)) {
  const uint8_t *block = from;
  for (size_t b = 0; b < blocks; b++, block += 34, to += 32) {
    float d = half_at(block);
    for (int j = 0; j < 32; j++) to[j] = d * (float)(int8_t)block[2 + j];
  }
}

float gk_q8_0_element(const void *from, size_t index) {
  const uint8_t *block = (const uint8_t *)from + index / 32 * 34;
  return half_at(block) * (float)(int8_t)block[2 + index % 32];
}

// Q4_K, 256 elements in 8 groups of 32: half d, half d_min; 12 bytes with a scale and a minimum of 6
// bits for each group; 128 bytes, of which every 32 hold a group below and the next one above.
// Element = d scale q - d_min minimum.
GK_INLINE void q4_k_group(
    const uint8_t *packed, size_t group, int *scale, int *minimum) {
  if (group < 4) {
    *scale = packed[group] & 63;
    *minimum = packed[group + 4] & 63;
  } else {
    // Four low bits of each in the last four bytes, two high bits atop the first eight.
    *scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
    *minimum = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
  }
}

GK_KERNEL(
    void, gk_float32_from_q4_k, (const void *from, float *to, size_t blocks), (from, to, blocks)) {
  const uint8_t *block = from;
  for (size_t b = 0; b < blocks; b++, block += 144) {
    float d = half_at(block), d_min = half_at(block + 2);
    const uint8_t *quants = block + 16;
    for (size_t group = 0; group < 8; group += 2, quants += 32, to += 64) {
      int scale, minimum, next_scale, next_minimum;
      q4_k_group(block + 4, group, &scale, &minimum);
      q4_k_group(block + 4, group + 1, &next_scale, &next_minimum);
      float low = d * (float)scale, low_offset = d_min * (float)minimum;
      float high = d * (float)next_scale, high_offset = d_min * (float)next_minimum;
      for (int l = 0; l < 32; l++) {
        to[l] = low * (float)(quants[l] & 15) - low_offset;
        to[l + 32] = high * (float)(quants[l] >> 4) - high_offset;
      }
    }
  }
}

float gk_q4_k_element(const void *from, size_t index) {
  const uint8_t *block = (const uint8_t *)from + index / 256 * 144;
  size_t group = index % 256 / 32;
  int scale, minimum;
  q4_k_group(block + 4, group, &scale, &minimum);
  uint8_t byte = block[16 + group / 2 * 32 + index % 32];
  int q = group % 2 == 0 ? byte & 15 : byte >> 4;
  return half_at(block) * (float)scale * (float)q - half_at(block + 2) * (float)minimum;
}

// Q6_K, 256 elements in 16 groups of 16: 128 bytes of low four bits, 64 bytes of high two bits, 16
// signed scales, half d. Each half of 128 elements is four runs of 32: runs 0 and 1 are the lower
// nibbles of 64 low bytes, runs 2 and 3 the upper; run r's high bits are bits 2r of 32 high bytes.
// Element = d scale (q - 32).
GK_KERNEL(
    void, gk_float32_from_q6_k, (const void *from, float *to, size_t blocks), (from, to, blocks)) {
  const uint8_t *block = from;
  for (size_t b = 0; b < blocks; b++, block += 210) {
    float d = half_at(block + 208);
    for (int half = 0; half < 2; half++, to += 128) {
      const uint8_t *low = block + half * 64, *high = block + 128 + half * 32;
      const int8_t *scales = (const int8_t *)block + 192 + half * 8;
      for (int part = 0; part < 2; part++) {
        float scale0 = d * (float)scales[part], scale1 = d * (float)scales[2 + part];
        float scale2 = d * (float)scales[4 + part], scale3 = d * (float)scales[6 + part];
        for (int l = part * 16; l < part * 16 + 16; l++) {
          to[l] = scale0 * (float)(((low[l] & 15) | (high[l] & 3) << 4) - 32);
          to[l + 32] = scale1 * (float)(((low[l + 32] & 15) | (high[l] >> 2 & 3) << 4) - 32);
          to[l + 64] = scale2 * (float)((low[l] >> 4 | (high[l] >> 4 & 3) << 4) - 32);
          to[l + 96] = scale3 * (float)((low[l + 32] >> 4 | high[l] >> 6 << 4) - 32);
        }
      }
    }
  }
}

float gk_q6_k_element(const void *from, size_t index) {
  const uint8_t *block = (const uint8_t *)from + index / 256 * 210;
  size_t half = index % 256 / 128, run = index % 128 / 32, l = index % 32;
  uint8_t low = block[half * 64 + run % 2 * 32 + l];
  int low_bits = run < 2 ? low & 15 : low >> 4;
  int high_bits = block[128 + half * 32 + l] >> 2 * run & 3;
  int8_t scale = (int8_t)block[192 + index % 256 / 16];
  return half_at(block + 208) * (float)scale * (float)((low_bits | high_bits << 4) - 32);
}
