// The hot loops. Every function is pure: no allocation, no threads, no state beyond its arguments.
// Versions for AVX-512, AVX2 and any CPU are compiled from one source and chosen at run time; they
// give the same bits, since each fixes its order of summation and fuses each multiply with its add.
#pragma once
#include <stddef.h>
#include <stdint.h>

// No symbol of the kernels is visible outside the program or library that they are linked into.
#pragma GCC visibility push(hidden)

// ---- cpu.c

/// The CPU that a kernel of the encoder is compiled for: any; AVX2 with FMA; AVX-512 with VNNI. Ascending.
typedef enum { gk_cpu_portable, gk_cpu_avx2, gk_cpu_avx512 } gk_cpu;
/// Not 0 if this machine can run the kernels of `cpu`.
int gk_cpu_supports(gk_cpu cpu);

// ---- convert.c

/// to[i] = from[i], exactly. from: [count] IEEE 754 half precision, any alignment.
void gk_float32_from_float16(const void *from, float *to, size_t count);
/// to[i] = from[i], exactly. from: [count] bfloat16, any alignment.
void gk_float32_from_bfloat16(const void *from, float *to, size_t count);
/// to[i] = from[i] in IEEE 754 half precision, rounded to nearest even; to: [count], any alignment.
/// Returns the index of the first value that half precision cannot hold (NaN, infinite, or of magnitude
/// 65520 and beyond), or count if there is none.
size_t gk_float16_from_float32(const float *from, void *to, size_t count);

// ---- dequantize.c

/// to[i] = element i of `blocks` blocks of a GGML format, of 32 elements each, 256 for the K formats;
/// from: any alignment.
void gk_float32_from_q4_0(const void *from, float *to, size_t blocks);
void gk_float32_from_q4_1(const void *from, float *to, size_t blocks);
void gk_float32_from_q8_0(const void *from, float *to, size_t blocks);
void gk_float32_from_q4_k(const void *from, float *to, size_t blocks);
void gk_float32_from_q6_k(const void *from, float *to, size_t blocks);
/// One element of the same, from its index alone: the oracle of the above, equal to the bit.
float gk_q4_0_element(const void *from, size_t index);
float gk_q4_1_element(const void *from, size_t index);
float gk_q8_0_element(const void *from, size_t index);
float gk_q4_k_element(const void *from, size_t index);
float gk_q6_k_element(const void *from, size_t index);

// ---- dot.c

/// Inner product in 64 partial sums (sum l takes the elements whose index is l modulo 64), which
/// are then added pairwise. a, b: [count], any alignment.
float gk_dot(const float *a, const float *b, size_t count);
/// The same, written plainly: the oracle of `gk_dot`, equal to the bit.
float gk_dot_reference(const float *a, const float *b, size_t count);
/// ‖a − b‖², in the partial sums of `gk_dot`.
float gk_squared_distance(const float *a, const float *b, size_t count);

// ---- quantize.c

/// An orthogonal transform times √(16 · vectors / odd), of 16 · vectors dimensions, that spreads what
/// stands in few dimensions over all: Hadamard of order 16 within vectors, Hadamard of order
/// vectors / odd (a power of two) and Hartley of order odd, at most gk_odd_max, across them.
typedef struct {
  size_t vectors, odd;
  /// [odd / 2, odd / 2]: cos and sin of 2π (i + 1) (j + 1) / odd, times `factor`.
  const float *cosines, *sines;
  /// 1 / √odd
  float factor;
} gk_rotation;
enum { gk_odd_max = 31 };
/// A row in 8 bits: approximately scale · quantized.
typedef struct {
  float scale;
  /// Of the row after centring, scaling and rotation; without allowance for rounding.
  float norm;
  /// ‖row − scale · quantized‖ after the same.
  float residual_norm;
  /// Of the quantized values.
  int32_t sum;
  /// 0 if the row is too large, too small, or not finite, for the norms to be right.
  int32_t usable;
} gk_quantized_row;
/// Quantises rotation((row − center) · scales) to −levels … levels.
/// row, scales, center (or NULL): [d_model]; scratch, quantized: [16 · vectors].
void gk_quantize(
    gk_cpu cpu, const float *row, const float *center, const float *scales, size_t d_model,
    const gk_rotation *rotation, int levels, float *scratch, int8_t *quantized,
    gk_quantized_row *result);

/// How an encoder is quantised.
typedef struct {
  /// What weights are multiplied by, and the centre of the activations: [16 · vectors], 0 beyond
  /// d_model.
  const float *scales, *center;
  size_t d_model;
  const gk_rotation *rotation;
  /// 127, or 63 if products of 8 bits would overflow.
  int levels;
  /// Factor by which the rotation multiplies squared norms.
  float rotation_square;
  /// Bound of the transform's rounding, relative to a row's norm; slightly more than 1, which covers
  /// that of the norms themselves.
  float rounding, grow;
  /// Bound of the rounding of weights · center, relative to the weights' norm.
  float center_rounding;
} gk_packing;
/// The parts of a panel's bounds, each [64]; see gk_screen.
typedef struct {
  float *scales, *biases, *residual_norms, *norms;
  /// Norms of the weights as they are, slightly more.
  float *raw_norms;
} gk_panel_bounds;
/// Quantises up to 64 latents into a panel. weights: [latents, d_model]; biases: [latents];
/// scratch: [16 · vectors, 16]; panel: [16 · vectors / 4, 64, 4].
void gk_pack_panel(
    gk_cpu cpu, const gk_packing *packing, const float *weights, const float *biases,
    size_t latents, float *scratch, uint8_t *panel, const gk_panel_bounds *bounds);

// ---- screen.c

/// Number of latents in a panel, here and wherever panels are packed or updated: the only copy.
enum { gk_panel_latents = 64 };
/// An encoder in 8 bits, in panels of 64 latents; arrays beyond the last latent are padded.
typedef struct {
  /// [panels, d_padded / 4, 64, 4]: each weight plus `offset`.
  const uint8_t *weights;
  /// [64 · panels], each: what an upper bound of pre-activations is made of.
  const float *scales, *biases, *residual_norms, *norms;
  size_t d_padded;
  int32_t offset;
} gk_screen;
/// A token that is screened, and the latents that it may activate.
typedef struct {
  float scale, norm, residual_norm;
  /// Latents whose upper bound is less are dropped.
  float threshold;
  /// Of the token's quantized values.
  int32_t sum;
  /// Latents gathered so far.
  uint32_t count;
  /// Upper bounds and indices of those latents, in order of indices. A panel may append 64, and
  /// write 16 beyond.
  float *bounds;
  uint32_t *latents;
} gk_screened_token;
/// Appends to each token the latents of one panel whose upper bound
/// scales[j] · token.scale · (quantized product) + biases[j] + residual_norms[j] · token.norm
/// + norms[j] · token.residual_norm is not less than the token's threshold.
/// inputs: [count, d_padded] int8.
void gk_screen_panel(
    gk_cpu cpu, const gk_screen *screen, size_t panel, const int8_t *inputs,
    gk_screened_token *tokens, size_t count);

// ---- rescore.c
//
// Pre-activations row · input + bias in one order of summation: 16 partial sums, sum l of the
// dimensions l modulo 16, each fused; these added pairwise; then the bias.

/// A latent and a token whose pre-activation is asked for, and the slot of the answer.
typedef struct {
  uint32_t latent, token, slot;
} gk_pair;
/// values[slot] = the pre-activation of each pair, fastest if pairs of a latent are adjacent.
/// weights: [*, d_model]; biases: [*]; inputs: [*, d_model].
void gk_rescore(
    gk_cpu cpu, const float *weights, const float *biases, const float *inputs,
    size_t d_model, const gk_pair *pairs, size_t count, float *values);
/// Appends to each token the latents first ..< end whose pre-activation is at least the token's
/// threshold and, unless floors is NULL, above floors[latent]; their bounds are the pre-activations.
/// weights: [*, d_model]; biases, floors: [*]; inputs: [count, d_model].
void gk_score_panel(
    gk_cpu cpu, const float *weights, const float *biases, const float *floors, size_t first,
    size_t end, const float *inputs, size_t d_model, gk_screened_token *tokens, size_t count);
/// One pre-activation, written plainly: the oracle of both, equal to the bit.
float gk_pre_activation_reference(
    const float *row, const float *input, size_t d_model, float bias);

// ---- select.c

/// The k-th largest of those values that are > 0, or 0 if fewer than k are.
/// values: [count], without NaN; k ≥ 1.
float gk_kth_largest_positive(const float *values, size_t count, size_t k);
/// Keeps, in place and in order, the k largest values that are > 0, of equal ones the first;
/// returns their number. kth: receives the k-th largest, 0 if fewer than k are > 0.
/// values, latents: [count]; k ≥ 1.
size_t gk_keep_largest(
    float *values, uint32_t *latents, size_t count, size_t k, float *kth);
/// Keeps, in place and in order, values above thresholds[latent], or above 0 if that is NULL.
size_t gk_keep_above(
    float *values, uint32_t *latents, size_t count, const float *thresholds);
/// Raises a token's threshold to what its k-th largest latent so far makes plausible, and drops the
/// latents below it. Without a screen, whose bounds are pre-activations, that is the k-th largest.
/// With one, it is the k-th largest bound less the error that bounds allow for, and less `margin`
/// times that error: a guess, to be verified. scratch: [token.count]; lists have room for 16 more.
void gk_raise_threshold(
    gk_cpu cpu, gk_screened_token *token, size_t k, const gk_screen *screen,
    float margin, float *scratch);

// ---- decode.c

/// One token's reconstructions by every prefix of the dictionary, in one pass over its latents.
///
/// sum := bias; latents are added in the order given (ascending), and whenever the next latent
/// reaches granularities[m], reconstruction m is scale * sum + shift.
/// decoder: [N, d_model]; bias, activation, sum: [d_model]; indices, values: [active];
/// granularities: [prefixes], ascending; squared_errors: [prefixes] or NULL, receives
/// ‖activation − reconstruction‖² (activation may be NULL with it);
/// reconstructions: NULL, or prefix m's row at reconstructions + m * reconstruction_stride.
void gk_nested_decode(
    const float *decoder, const float *bias, size_t d_model, const uint32_t *indices,
    const float *values, size_t active, const uint32_t *granularities, size_t prefixes,
    const float *activation, float scale, float shift, float *sum, float *squared_errors,
    float *reconstructions, size_t reconstruction_stride);

// ---- train.c

/// Turns one token's nested reconstructions into what their losses send back, in place: row m
/// becomes Σ over m' ≥ m of weights[m'] · (reconstruction m' − activation), which every latent of
/// block m (in prefix m, not in m − 1) receives. rows: [prefixes, d_model]; activation: [d_model].
void gk_suffix_residuals(
    float *rows, size_t prefixes, size_t d_model, const float *activation, const float *weights);
/// sum := Σ_i weights[i] · rows[row_indices[i]], in the order given.
/// rows: [*, d_model]; row_indices, weights: [count]; sum: [d_model].
void gk_weighted_rows_sum(
    const float *rows, size_t d_model, const uint32_t *row_indices, const float *weights,
    size_t count, float *sum);
/// products[i] = decoder[indices[i]] · rows[blocks[indices[i]]], each summed as by gk_dot.
/// decoder: [N, d_model]; indices, products: [active]; blocks: [N]; rows: [*, d_model].
void gk_latent_products(
    const float *decoder, size_t d_model, const uint32_t *indices, size_t active,
    const uint32_t *blocks, const float *rows, float *products);

/// Gradients are summed a strip of columns at a time: a batch's strip stays in the second-level cache
/// while the latents' entries visit its rows in any order.
enum { gk_strip_columns = 32 };
/// Writes row's strip s to strips + s · stride; the last is padded with zeros. row: [d_model];
/// strips: aligned to 64 bytes, stride a multiple of strip_columns.
void gk_cut_row(const float *row, size_t d_model, float *strips, size_t stride);
/// An active latent of one token: its value and what ∂loss/∂(its pre-activation) is.
typedef struct {
  uint32_t token;
  float value, gradient;
} gk_entry;
/// Entries in order of latents: latent j's are at offsets[j] ..< offsets[j + 1]; NULL: none.
typedef struct {
  const gk_entry *entries;
  const uint32_t *offsets;
} gk_entries;
/// The inputs of a batch's gradient, and the memory that receives it.
typedef struct {
  size_t latents, d_model;
  /// x − b_dec: [strips, tokens or more, strip_columns]
  const float *inputs;
  /// What residuals send back to the latents of each block: [blocks, strips, tokens or more, strip_columns]
  const float *returned;
  /// Floats of one block, strips · (tokens or more) · strip_columns
  size_t slab_stride;
  /// Of the loss's codes, whose block of each latent `blocks` [latents] says, and of the auxiliary
  /// loss's, whose block is `auxiliary_block`.
  gk_entries entries[2];
  const uint32_t *blocks;
  size_t auxiliary_block;
  /// [latents]: whether the gradient's rows of a latent are zeros already.
  const uint8_t *is_zero;
  /// [latents, d_model]
  float *encoder, *decoder;
  /// [strips, latents]: of both rows' strips.
  float *squared_norms;
} gk_gradients;
/// One strip of the gradient of the latents first ..< end: Σ gradient · input for the encoder's row,
/// Σ value · returned for the decoder's, in order of tokens, the auxiliary loss's last.
void gk_strip_gradients(
    const gk_gradients *problem, size_t strip, size_t first, size_t end);
/// sum := Σ of a strip's rows, in order. strip: [tokens, strip_columns]; sum: [strip_columns].
void gk_strip_sum(const float *strip, size_t tokens, float *sum);
/// Adds Σ (row − shift) and Σ (row − shift)² of each column to sums and squares.
/// rows: [count, columns]; shift, sums, squares: [columns].
void gk_column_moments(
    const float *rows, size_t count, size_t columns, const float *shift, double *sums,
    double *squares);
/// row := row / ‖row‖; a row of zeros stays.
void gk_normalize(float *row, size_t count);

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
} gk_adam_step;
/// One Adam step, as torch.optim.AdamW takes it. All: [count]; gradients NULL: zeros.
void gk_adam(
    float *parameters, float *first_moments, float *second_moments, const float *gradients,
    size_t count, const gk_adam_step *step);
/// The same of a row that is to stay a unit vector: parallel · row is subtracted from the gradient
/// before the step, and the row is normalised after it. All: [count]; gradients NULL: zeros.
void gk_adam_unit_row(
    float *row, float *first_moments, float *second_moments, const float *gradients, float parallel,
    size_t count, const gk_adam_step *step);

// ---- softmax.c

/// The largest of the values, without NaN; −∞ if there is none. values: [count].
float gk_maximum(const float *values, size_t count);
/// values[i] := scale · e^(values[i] − shift), each within a relative 3·10⁻⁷ if the power is in
/// −87 … 88.7, 0 below; returns their sum, added up in double precision beyond 512 values.
/// values: [count].
double gk_exponentials(float *values, size_t count, float shift, float scale);
/// The same, written plainly: the oracle of `gk_exponentials`.
double gk_exponentials_reference(float *values, size_t count, float shift, float scale);
/// Backwards through softmax: gradients[i] := probabilities[i] · (gradients[i] − mean), mean being
/// Σ probabilities · gradients. probabilities, gradients: [count].
void gk_softmax_gradient(
    const float *probabilities, float *gradients, size_t count, float mean);
/// values[i] := factor · values[i]. values: [count].
void gk_scale(float *values, size_t count, float factor);

// ---- swiglu.c

/// output := SiLU(gate) · up, SiLU(g) = g / (1 + e^−g). All: [count]; output may be gate or up.
void gk_swiglu(const float *gate, const float *up, float *output, size_t count);
/// Backwards through `gk_swiglu`, in place: gate and up receive their own gradients.
/// gradient: of the output; all: [count].
void gk_swiglu_gradient(float *gate, float *up, const float *gradient, size_t count);
/// The same, written plainly: the oracles of both.
void gk_swiglu_reference(const float *gate, const float *up, float *output, size_t count);
void gk_swiglu_gradient_reference(
    float *gate, float *up, const float *gradient, size_t count);

// ---- norm.c

/// output := weight · input / √(mean of input² + epsilon). All: [count]; output may be input.
void gk_rms_norm(
    const float *input, const float *weight, float epsilon, size_t count, float *output);
/// The same, written plainly: the oracle of `gk_rms_norm`.
void gk_rms_norm_reference(
    const float *input, const float *weight, float epsilon, size_t count, float *output);
/// Backwards through `gk_rms_norm`: adds the input's gradient to input_gradient.
/// gradient: of the output; all: [count].
void gk_rms_norm_gradient(
    const float *input, const float *weight, float epsilon, size_t count, const float *gradient,
    float *input_gradient);

// ---- rotate.c

/// Rotary embedding: turns each adjacent pair of every head, in place, by the angle whose cosine
/// and sine are given, or by its negative if direction is −1.
/// heads: [head_count, head_dimension]; cosines: [head_dimension], each cosine twice; sines:
/// [head_dimension], each sine negated and then as it is; direction: 1 or −1.
void gk_rotate_pairs(
    float *heads, size_t head_count, size_t head_dimension, const float *cosines,
    const float *sines, float direction);

#pragma GCC visibility pop
