// The versions of each kernel that chooses by itself, so that tests can compare them on one CPU.
#pragma once
#include "CGranuleKernels.h"

#define KERNELS(X)                                                                                \
  X(void, float32_from_float16, (const void *from, float *to, size_t count))                      \
  X(void, float32_from_bfloat16, (const void *from, float *to, size_t count))                     \
  X(size_t, float16_from_float32, (const float *from, void *to, size_t count))                    \
  X(void, float32_from_q4_0, (const void *from, float *to, size_t blocks))                        \
  X(void, float32_from_q4_1, (const void *from, float *to, size_t blocks))                        \
  X(void, float32_from_q8_0, (const void *from, float *to, size_t blocks))                        \
  X(void, float32_from_q4_k, (const void *from, float *to, size_t blocks))                        \
  X(void, float32_from_q6_k, (const void *from, float *to, size_t blocks))                        \
  X(float, dot, (const float *a, const float *b, size_t count))                                   \
  X(float, squared_distance, (const float *a, const float *b, size_t count))                      \
  X(float, pre_activation_reference,                                                              \
    (const float *row, const float *input, size_t d_model, float bias))                           \
  X(float, kth_largest_positive, (const float *values, size_t count, size_t k))                   \
  X(void, nested_decode,                                                                          \
    (const float *decoder, const float *bias, size_t d_model, const uint32_t *indices,            \
     const float *values, size_t active, const uint32_t *granularities, size_t prefixes,          \
     const float *activation, float scale, float shift, float *sum, float *squared_errors,        \
     float *reconstructions, size_t reconstruction_stride))                                       \
  X(void, suffix_residuals,                                                                       \
    (float *rows, size_t prefixes, size_t d_model, const float *activation,                       \
     const float *weights))                                                                       \
  X(void, weighted_rows_sum,                                                                      \
    (const float *rows, size_t d_model, const uint32_t *row_indices, const float *weights,        \
     size_t count, float *sum))                                                                   \
  X(void, latent_products,                                                                        \
    (const float *decoder, size_t d_model, const uint32_t *indices, size_t active,                \
     const uint32_t *blocks, const float *rows, float *products))                                 \
  X(void, cut_row, (const float *row, size_t d_model, float *strips, size_t stride))              \
  X(void, strip_gradients,                                                                        \
    (const gk_gradients *problem, size_t strip, size_t first, size_t end))                        \
  X(void, strip_sum, (const float *strip, size_t tokens, float *sum))                             \
  X(void, column_moments,                                                                         \
    (const float *rows, size_t count, size_t columns, const float *shift, double *sums,           \
     double *squares))                                                                            \
  X(void, normalize, (float *row, size_t count))                                                  \
  X(void, adam,                                                                                   \
    (float *parameters, float *first_moments, float *second_moments, const float *gradients,      \
     size_t count, const gk_adam_step *step))                                                     \
  X(void, adam_unit_row,                                                                          \
    (float *row, float *first_moments, float *second_moments, const float *gradients,             \
     float parallel, size_t count, const gk_adam_step *step))                                     \
  X(float, maximum, (const float *values, size_t count))                                          \
  X(double, exponentials, (float *values, size_t count, float shift, float scale))                \
  X(void, softmax_gradient,                                                                       \
    (const float *probabilities, float *gradients, size_t count, float mean))                     \
  X(void, scale, (float *values, size_t count, float factor))                                     \
  X(void, swiglu, (const float *gate, const float *up, float *output, size_t count))              \
  X(void, swiglu_gradient, (float *gate, float *up, const float *gradient, size_t count))         \
  X(void, rms_norm,                                                                               \
    (const float *input, const float *weight, float epsilon, size_t count, float *output))        \
  X(void, rms_norm_gradient,                                                                      \
    (const float *input, const float *weight, float epsilon, size_t count,                        \
     const float *gradient, float *input_gradient))                                               \
  X(void, rotate_pairs,                                                                           \
    (float *heads, size_t head_count, size_t head_dimension, const float *cosines,                \
     const float *sines, float direction))

#define FIELD(type, name, parameters) type(*name) parameters;
/// All kernels, in one version.
typedef struct {
  KERNELS(FIELD)
} kernel_set;
#undef FIELD

/// The version for a CPU, which this machine must support.
kernel_set kernels_for(gk_cpu cpu);
/// The functions that choose by themselves.
kernel_set kernels_chosen(void);
