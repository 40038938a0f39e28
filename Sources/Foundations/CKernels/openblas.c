#include <stdlib.h>
#include <string.h>

// OpenBLAS chooses its kernels by the CPU's name, when it is loaded. Debian 12's was written before
// Emerald Rapids, say, and takes a CPU that it does not know for a Prescott of 2004 (some versions one
// of AMD's for a Barcelona of 2007): a fifth of the speed. Its user's remedy is OPENBLAS_CORETYPE, which
// nobody should have to know of: where it took an AVX2 CPU for one of those, it is told what the CPU
// has, and to choose again. That is done before main, since no other thread may read the environment
// meanwhile.
//
// Weak: a program without OpenBLAS has none of these, and a build for one kind of CPU has no choice.
extern char *openblas_get_corename(void) __attribute__((weak));
extern void gotoblas_dynamic_quit(void) __attribute__((weak));
extern void gotoblas_dynamic_init(void) __attribute__((weak));

static const char variable[] = "OPENBLAS_CORETYPE";

__attribute__((constructor)) static void choose_openblas_kernels(void) {
  if (!openblas_get_corename || !gotoblas_dynamic_quit || !gotoblas_dynamic_init) return;
  const char *chosen = openblas_get_corename();
  if (getenv(variable) || (strcmp(chosen, "Prescott") && strcmp(chosen, "Barcelona"))) return;
  __builtin_cpu_init();
  const char *kernels = __builtin_cpu_supports("x86-64-v4")   ? "SkylakeX"
                        : __builtin_cpu_supports("x86-64-v3") ? "Haswell"
                                                              : NULL;
  if (!kernels || setenv(variable, kernels, 0)) return;
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  // Programs that this one starts may have another OpenBLAS, which knows more CPUs.
  unsetenv(variable);
}
