#include "CGranuleKernels.h"
#include "vector.h"

typedef _Float16 half16x __attribute__((vector_size(32)));

// x86-64-v3 and v4 convert 8 and 16 at a time; the portable version calls the compiler's runtime.
GK_KERNEL(
    void, gk_float32_from_float16, (const void *from, float *to, size_t count), (from, to, count)) {
  const char *bytes = from;
  for (size_t i = 0; i < count; i += 16) {
    size_t left = count - i < 16 ? count - i : 16;
    half16x halves = {0};
    if (left == 16) memcpy(&halves, bytes + 2 * i, 32);
    else memcpy(&halves, bytes + 2 * i, 2 * left);
    float16x floats = __builtin_convertvector(halves, float16x);
    if (left == 16) store16(to + i, floats);
    else memcpy(to + i, &floats, left * sizeof(float));
  }
}

GK_KERNEL(
    void, gk_float32_from_bfloat16,
    (const void *from, float *to, size_t count), (from, to, count)) {
  const char *bytes = from;
  for (size_t i = 0; i < count; i++) {
    uint16_t high;
    memcpy(&high, bytes + 2 * i, 2);
    uint32_t bits = (uint32_t)high << 16;
    memcpy(&to[i], &bits, 4);
  }
}

GK_KERNEL(
    size_t, gk_float16_from_float32,
    (const float *from, void *to, size_t count), (from, to, count)) {
  char *bytes = to;
  int beyond = 0;
  for (size_t i = 0; i < count; i += 16) {
    size_t left = count - i < 16 ? count - i : 16;
    float16x floats = {0};
    memcpy(&floats, from + i, left * sizeof(float));
    half16x halves = __builtin_convertvector(floats, half16x);
    memcpy(bytes + 2 * i, &halves, 2 * left);
  }
  for (size_t i = 0; i < count; i++) beyond |= !(__builtin_fabsf(from[i]) < 65520.0f);
  size_t first = 0;
  if (!beyond) return count;
  while (__builtin_fabsf(from[first]) < 65520.0f) first++;
  return first;
}
