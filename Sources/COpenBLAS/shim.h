#include <cblas.h>

// Debian's OpenBLAS has LAPACK in its library and not in its headers. Fortran passes everything by
// address, and the lengths of strings at the end.
void dsyev_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
            double *work, const int *lwork, int *info, size_t jobz_length, size_t uplo_length);
