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
/// to[i] = from[i] in IEEE 754 half precision, rounded to nearest even; to: [count], any alignment.
/// Returns the index of the first value that half precision cannot hold (NaN, infinite, or of 65520
/// and beyond), else count.
size_t granule_float16_from_float32(const float *from, void *to, size_t count);

// ---- dequantize.c

/// to[i] = element i of `blocks` blocks of a GGML format, of 32 elements each, 256 for the K formats;
/// from: any alignment.
void granule_float32_from_q4_0(const void *from, float *to, size_t blocks);
void granule_float32_from_q4_1(const void *from, float *to, size_t blocks);
void granule_float32_from_q8_0(const void *from, float *to, size_t blocks);
void granule_float32_from_q4_k(const void *from, float *to, size_t blocks);
void granule_float32_from_q6_k(const void *from, float *to, size_t blocks);
/// One element of the same, from its index alone: the oracle of the above, equal to the bit.
float granule_q4_0_element(const void *from, size_t index);
float granule_q4_1_element(const void *from, size_t index);
float granule_q8_0_element(const void *from, size_t index);
float granule_q4_k_element(const void *from, size_t index);
float granule_q6_k_element(const void *from, size_t index);

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

// ---- train.c

/// Turns one token's nested reconstructions into what their losses send back, in place: row m
/// becomes Σ over m' ≥ m of weights[m'] · (reconstruction m' − activation), which every latent of
/// block m (in prefix m, not in m − 1) receives. rows: [prefixes, d_model]; activation: [d_model].
void granule_suffix_residuals(
    float *rows, size_t prefixes, size_t d_model, const float *activation, const float *weights);
/// sum := Σ_i weights[i] · rows[row_indices[i]], in the order given.
/// rows: [*, d_model]; row_indices, weights: [count]; sum: [d_model].
void granule_weighted_rows_sum(
    const float *rows, size_t d_model, const uint32_t *row_indices, const float *weights,
    size_t count, float *sum);
/// gradient := gradient − ⟨gradient, row⟩ · row, for a row of unit norm.
void granule_remove_parallel(float *gradient, const float *row, size_t count);
/// row := row / ‖row‖; a row of zeros stays.
void granule_normalize(float *row, size_t count);

/// What one Adam step needs besides gradients.
typedef struct {
  float learning_rate;
  float beta1, beta2, epsilon;
  /// 1 − beta1^t and 1 − beta2^t at step t, counted from 1.
  float bias_correction1, bias_correction2;
  /// Decoupled (AdamW): parameters shrink by learning_rate · weight_decay first.
  float weight_decay;
  /// Gradients are multiplied by it: the share that clipping leaves.
  float gradient_scale;
} granule_adam_step;
/// One Adam step, as torch.optim.AdamW takes it. All: [count].
void granule_adam(
    float *parameters, float *first_moments, float *second_moments, const float *gradients,
    size_t count, const granule_adam_step *step);

// ---- softmax.c

/// The largest of the values, without NaN; −∞ where there is none. values: [count].
float granule_maximum(const float *values, size_t count);
/// values[i] := scale · e^(values[i] − shift), each within a relative 3·10⁻⁷ where the power is in
/// −87 … 88.7, 0 below; returns their sum, added up in double precision beyond 512 values.
/// values: [count].
double granule_exponentials(float *values, size_t count, float shift, float scale);
/// The same, written plainly: the oracle of `granule_exponentials`.
double granule_exponentials_reference(float *values, size_t count, float shift, float scale);
/// Backwards through softmax: gradients[i] := probabilities[i] · (gradients[i] − mean), where mean is
/// Σ probabilities · gradients. probabilities, gradients: [count].
void granule_softmax_gradient(
    const float *probabilities, float *gradients, size_t count, float mean);
/// values[i] := factor · values[i]. values: [count].
void granule_scale(float *values, size_t count, float factor);

// ---- swiglu.c

/// output := SiLU(gate) · up, SiLU(g) = g / (1 + e^−g). All: [count]; output may be gate or up.
void granule_swiglu(const float *gate, const float *up, float *output, size_t count);
/// Backwards through `granule_swiglu`, in place: gate and up receive their own gradients.
/// gradient: of the output; all: [count].
void granule_swiglu_gradient(float *gate, float *up, const float *gradient, size_t count);
/// The same, written plainly: the oracles of both.
void granule_swiglu_reference(const float *gate, const float *up, float *output, size_t count);
void granule_swiglu_gradient_reference(
    float *gate, float *up, const float *gradient, size_t count);

// ---- norm.c

/// output := weight · input / √(mean of input² + epsilon). All: [count]; output may be input.
void granule_rms_norm(
    const float *input, const float *weight, float epsilon, size_t count, float *output);
/// The same, written plainly: the oracle of `granule_rms_norm`.
void granule_rms_norm_reference(
    const float *input, const float *weight, float epsilon, size_t count, float *output);
/// Backwards through `granule_rms_norm`: adds the input's gradient to input_gradient.
/// gradient: of the output; all: [count].
void granule_rms_norm_gradient(
    const float *input, const float *weight, float epsilon, size_t count, const float *gradient,
    float *input_gradient);

// ---- rotate.c

/// Rotary embedding: turns each adjacent pair of every head, in place, by the angle whose cosine
/// and sine are given; by its negative where direction is −1.
/// heads: [head_count, head_dimension]; cosines: [head_dimension], each cosine twice; sines:
/// [head_dimension], each sine negated and then as it is; direction: 1 or −1.
void granule_rotate_pairs(
    float *heads, size_t head_count, size_t head_dimension, const float *cosines,
    const float *sines, float direction);
