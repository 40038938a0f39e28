#include <cblas.h>
#include <stdlib.h>
#include <string.h>

// Debian's OpenBLAS has LAPACK in its library and not in its headers. Fortran passes everything by
// address, and the lengths of strings at the end.
void dsyev_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
            double *work, const int *lwork, int *info, size_t jobz_length, size_t uplo_length);
void dgels_(const char *trans, const int *m, const int *n, const int *nrhs, double *a, const int *lda,
            double *b, const int *ldb, double *work, const int *lwork, int *info, size_t trans_length);
void dpotri_(const char *uplo, const int *n, double *a, const int *lda, int *info, size_t uplo_length);

// What OpenBLAS chooses its kernels with when it is loaded. Weak: a build for one kind of CPU has none.
extern void gotoblas_dynamic_quit(void) __attribute__((weak));
extern void gotoblas_dynamic_init(void) __attribute__((weak));

// OpenBLAS chooses its kernels by the CPU's name. Debian 12's was written before Emerald Rapids, say, and
// takes a CPU that it does not know for a Prescott of 2004 (some versions take one of AMD's for a
// Barcelona of 2007): a fifth of the speed. If it took an AVX2 CPU for one of those, this tells it what
// the CPU supports, as its user could by OPENBLAS_CORETYPE, and lets it choose again.
static inline void openblas_choose_kernels(void) {
#if defined(__x86_64__)
  static const char variable[] = "OPENBLAS_CORETYPE";
  if (!gotoblas_dynamic_quit || !gotoblas_dynamic_init) return;
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
#endif
}
