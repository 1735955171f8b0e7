/* Gives the OpenBLAS of the package scipy-openblas32, whose names begin with `scipy_`, the plain names that MLX calls. */
#include <stdint.h>

#define REAL(NAME, TYPE)                                                                                                 \
    void scipy_##NAME(int, int, int, int, int, int, TYPE, const TYPE *, int, const TYPE *, int, TYPE, TYPE *, int);       \
    void NAME(int order, int transpose_a, int transpose_b, int m, int n, int k, TYPE alpha, const TYPE *a, int lda,       \
              const TYPE *b, int ldb, TYPE beta, TYPE *c, int ldc) {                                                      \
        scipy_##NAME(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);                      \
    }

#define COMPLEX(NAME)                                                                                                    \
    void scipy_##NAME(int, int, int, int, int, int, const void *, const void *, int, const void *, int, const void *,     \
                      void *, int);                                                                                       \
    void NAME(int order, int transpose_a, int transpose_b, int m, int n, int k, const void *alpha, const void *a,         \
              int lda, const void *b, int ldb, const void *beta, void *c, int ldc) {                                      \
        scipy_##NAME(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);                      \
    }

REAL(cblas_sgemm, float)
REAL(cblas_dgemm, double)
COMPLEX(cblas_cgemm)
COMPLEX(cblas_zgemm)
