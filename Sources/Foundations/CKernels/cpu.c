#include "cpu.h"

int gk_cpu_supports(gk_cpu cpu) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (cpu) {
    case gk_cpu_portable: return 1;
    case gk_cpu_avx2: return __builtin_cpu_supports("x86-64-v3") != 0;
    case gk_cpu_avx512:
      return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni");
  }
  return 0;
#else
  return cpu == gk_cpu_portable;
#endif
}

unsigned gk_level = 0;

unsigned gk_find_level(void) {
  unsigned level = 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) level = 3;
  else if (__builtin_cpu_supports("x86-64-v3")) level = 2;
#endif
  __atomic_store_n(&gk_level, level, __ATOMIC_RELAXED);
  return level;
}
