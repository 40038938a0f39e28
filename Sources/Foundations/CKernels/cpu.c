#include "cpu.h"

int gk_cpu_supports(gk_cpu cpu) {
  __builtin_cpu_init();
  switch (cpu) {
    case gk_cpu_portable: return 1;
    case gk_cpu_avx2: return __builtin_cpu_supports("x86-64-v3") != 0;
    case gk_cpu_avx512:
      return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni");
  }
  return 0;
}
