#include "CKernelVersions.h"

#pragma GCC visibility push(hidden)
#define DECLARE(type, name, parameters) \
  type gk_##name##_portable parameters; \
  type gk_##name##_avx2 parameters;     \
  type gk_##name##_avx512 parameters;
KERNELS(DECLARE)
#pragma GCC visibility pop

kernel_set kernels_for(gk_cpu cpu) {
#define PORTABLE(type, name, parameters) gk_##name##_portable,
#define AVX2(type, name, parameters) gk_##name##_avx2,
#define AVX512(type, name, parameters) gk_##name##_avx512,
#if defined(__x86_64__)
  if (cpu == gk_cpu_avx2) return (kernel_set){KERNELS(AVX2)};
  if (cpu == gk_cpu_avx512) return (kernel_set){KERNELS(AVX512)};
#endif
  return (kernel_set){KERNELS(PORTABLE)};
}

kernel_set kernels_chosen(void) {
#define CHOSEN(type, name, parameters) gk_##name,
  return (kernel_set){KERNELS(CHOSEN)};
}
