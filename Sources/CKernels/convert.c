#include "CKernels.h"
#include "vector.h"

typedef _Float16 half16x __attribute__((vector_size(32)));

// x86-64-v3 and v4 convert 8 and 16 at a time, elsewhere the compiler's runtime does.
GRANULE_VERSIONS
void granule_float32_from_float16(const void *from, float *to, size_t count) {
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

GRANULE_VERSIONS
void granule_float32_from_bfloat16(const void *from, float *to, size_t count) {
  const char *bytes = from;
  for (size_t i = 0; i < count; i++) {
    uint16_t high;
    memcpy(&high, bytes + 2 * i, 2);
    uint32_t bits = (uint32_t)high << 16;
    memcpy(&to[i], &bits, 4);
  }
}
