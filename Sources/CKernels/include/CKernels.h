// The hot loops. Every function is pure: no allocation, no threads, no state beyond its arguments.
// Versions for AVX-512, AVX2 and any CPU are compiled from one source and chosen at run time; they
// give the same bits, since each fixes its order of summation and fuses each multiply with its add.
#pragma once
#include <stddef.h>
#include <stdint.h>

// ---- convert.c

/// to[i] = from[i], exactly. from: [count] IEEE 754 half precision, any alignment.
void granule_float32_from_float16(const void *from, float *to, size_t count);
/// to[i] = from[i], exactly. from: [count] bfloat16, any alignment.
void granule_float32_from_bfloat16(const void *from, float *to, size_t count);

// ---- dot.c

/// Inner product in 64 partial sums (sum l takes the elements whose index is l modulo 64), which
/// are then added pairwise. a, b: [count], any alignment.
float granule_dot(const float *a, const float *b, size_t count);
/// The same, written plainly: the oracle of `granule_dot`, equal to the bit.
float granule_dot_reference(const float *a, const float *b, size_t count);

// ---- select.c

/// The k-th largest of those values that are > 0, or 0 where fewer than k are.
/// values: [count], without NaN; count ≥ 1, k ≥ 1; scratch: [count].
float granule_kth_largest_positive(const float *values, size_t count, size_t k, float *scratch);
/// Writes the indices i with values[i] > threshold, ascending; returns how many.
/// indices: room for [count].
size_t granule_indices_above(
    const float *values, size_t count, float threshold, uint32_t *indices);
/// Writes the indices i with values[i] > thresholds[i] - slack, ascending; returns how many.
size_t granule_indices_above_each(
    const float *values, const float *thresholds, float slack, size_t count, uint32_t *indices);

// ---- decode.c

/// One token's reconstructions by every prefix of the dictionary, in one pass over its latents.
///
/// sum := bias; latents are added in the order given (ascending), and whenever the next latent
/// reaches granularities[m], reconstruction m is scale * sum + shift.
/// decoder: [N, d_model]; bias, activation, sum: [d_model]; indices, values: [active];
/// granularities: [prefixes], ascending; squared_errors: [prefixes] or NULL, receives
/// ‖activation − reconstruction‖² (activation may be NULL with it);
/// reconstructions: NULL, or prefix m's row at reconstructions + m * reconstruction_stride.
void granule_nested_decode(
    const float *decoder, const float *bias, size_t d_model, const uint32_t *indices,
    const float *values, size_t active, const uint32_t *granularities, size_t prefixes,
    const float *activation, float scale, float shift, float *sum, float *squared_errors,
    float *reconstructions, size_t reconstruction_stride);
