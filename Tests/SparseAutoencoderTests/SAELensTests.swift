import SparseAutoencoder
import Tensors
import TestSupport
import Testing

/// What SAELens itself computed from dictionaries that it wrote, and files that it should refuse.
@Suite("SAELens folders", .enabled(if: SharedData.isPresent, "../shared/data is not there"))
struct SAELensTests {
  static let float32Fixtures =
    ["sae_lens_topk", "sae_lens_jumprelu", "sae_lens_matryoshka/inference"]
    + [
      "batchtopk_inference", "covariance_whitening_unfolded", "hook_z", "jumprelu_bdec_in",
      "jumprelu_edges", "jumprelu_nobdec_in", "legacy_v5_topk", "norm_constant_norm_rescale",
      "norm_eaoi_folded", "norm_eaoi_unfolded", "norm_layer_norm", "standard_bdec_in",
      "standard_nobdec_in", "stored_bf16_cfg_f32", "topk_bdec_in", "topk_few_positive",
      "topk_layer_norm", "topk_nobdec_in", "topk_rescale",
    ].map { "sae_lens_tiny/\($0)" }

  struct Outputs {
    var codes: [Float]
    var reconstruction: [Float]
    var expectedCodes: [Float]
    var expectedReconstruction: [Float]
  }

  func outputs(_ fixture: String) throws -> Outputs {
    let folder = SharedData.path("fixtures/\(fixture)")
    let dictionary = try SparseAutoencoder(folder: folder)
    let expected = try SafetensorsFile(FileBytes.map("\(folder)/expected.safetensors"))
    let activations = try expected.tensor("x").float32()
    let tokens = activations.count / dictionary.dModel
    let codes = try dictionary.encode(
      activations.values, tokens: tokens, granularity: dictionary.latents,
      workspace: EncodeWorkspace())
    var dense = [Float](repeating: 0, count: tokens * dictionary.latents)
    for token in 0..<tokens {
      for position in Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1]) {
        dense[token * dictionary.latents + Int(codes.indices[position])] = codes.values[position]
      }
    }
    var errors = [Float](repeating: 0, count: tokens)
    var reconstruction = [Float](repeating: 0, count: activations.count)
    dictionary.nestedDecode(
      codes, activations: activations.values, granularities: [dictionary.latents],
      squaredErrors: &errors, reconstructions: &reconstruction)
    return Outputs(
      codes: dense, reconstruction: reconstruction,
      expectedCodes: try expected.tensor("codes").float32().array,
      expectedReconstruction: try expected.tensor("recon").float32().array)
  }

  @Test(
    "give the outputs that SAELens gives, within 2e-5 of the largest", arguments: float32Fixtures)
  func float32(fixture: String) throws {
    let outputs = try outputs(fixture)
    let differing = zip(outputs.codes, outputs.expectedCodes).count { ($0 > 0) != ($1 > 0) }
    #expect(differing == 0, "latents active in one only")
    expectClose(outputs.codes, outputs.expectedCodes, relative: 2e-5)
    expectClose(outputs.reconstruction, outputs.expectedReconstruction, relative: 2e-5)
  }

  // SAELens computes these in the stored precision: 8 and 11 bits, so supports may differ where
  // latents are nearly tied.
  @Test(
    "stored and computed in 16 bits there agree as far as their precision goes",
    arguments: [("standard_bf16", Float(2e-2)), ("topk_f16", 3e-3)])
  func float16(fixture: String, relative: Float) throws {
    let outputs = try outputs("sae_lens_tiny/\(fixture)")
    expectClose(outputs.codes, outputs.expectedCodes, relative: relative)
    expectClose(outputs.reconstruction, outputs.expectedReconstruction, relative: relative)
  }

  func expectClose(_ got: [Float], _ expected: [Float], relative: Float) {
    #expect(got.count == expected.count)
    let largest = expected.map(abs).max() ?? 0
    let difference = zip(got, expected).map { abs($0 - $1) }.max() ?? 0
    #expect(difference <= relative * largest, "\(difference) of \(largest)")
  }

  @Test(
    "of other architectures are refused by name",
    arguments: [
      ("sae_lens_tiny/gated", "gated"), ("sae_lens_tiny/abstopk", "abstopk"),
      ("sae_lens_tiny/transcoder", "transcoder"), ("sae_lens_tiny/batchtopk_training", "batchtopk"),
    ])
  func otherArchitectures(fixture: String, name: String) {
    let error = #expect(throws: TensorFileError.self) {
      try SparseAutoencoder(folder: SharedData.path("fixtures/\(fixture)"))
    }
    #expect(error?.description.contains("architecture \(name) is not supported") == true)
  }

  @Test("keep the Matryoshka widths that SAELens records")
  func matryoshkaWidths() throws {
    let dictionary = try SparseAutoencoder(
      folder: SharedData.path("fixtures/sae_lens_matryoshka/inference"))
    #expect(dictionary.granularities.map(\.latents) == [128, 256, 512, 1024])
  }

  /// Each malformed folder with what its error must name.
  static let malformedFolders: [(folder: String, naming: [String])] = [
    ("01_truncated_data", ["sae_weights.safetensors", "needs bytes"]),
    ("02_truncated_header", ["sae_weights.safetensors", "header of"]),
    ("03_header_len_beyond_file", ["header of 1000000 bytes"]),
    ("04_header_200MB_claimed", ["200000000", "limit is 100000000"]),
    ("05_header_len_u64max", ["18446744073709551615", "limit"]),
    ("06_header_not_json", ["header is not valid JSON"]),
    ("07_header_json_array", ["header is an array"]),
    ("08_header_invalid_utf8", ["header is not valid JSON", "byte"]),
    ("09_overlapping_offsets", ["tensor b_dec", "overlap"]),
    ("10_hole_in_data", ["tensor b_enc", "hole"]),
    ("11_reversed_offsets", ["tensor b_dec", "reversed"]),
    ("12_shape_product_mismatch", ["tensor W_enc", "needs 144 bytes", "128"]),
    ("13_dtype_size_mismatch", ["tensor W_enc", "needs 64 bytes", "128"]),
    ("14_unknown_dtype", ["dtype Q4"]),
    ("15_negative_shape", ["shape", "≥ 0"]),
    ("16_shape_overflow", ["63 bits"]),
    ("17_nan_weight", ["tensor W_enc", "[1, 3]", "nan"]),
    ("18_inf_bias", ["tensor b_enc", "[2]", "inf"]),
    ("19_cfg_d_sae_mismatch", ["tensor W_dec", "[8, 4]", "[16, 4]"]),
    ("20_cfg_d_in_mismatch", ["tensor W_dec", "[8, 4]", "[8, 8]"]),
    ("21_missing_b_dec", ["tensor b_dec", "missing"]),
    ("22_zero_length_file", ["0 bytes long"]),
    ("23_seven_byte_file", ["7 bytes long"]),
    ("24_b_enc_2d", ["tensor b_enc", "[1, 8]", "[8]"]),
    ("25_threshold_wrong_length", ["tensor threshold", "[7]", "[8]"]),
    ("26_jumprelu_no_threshold", ["tensor threshold", "missing"]),
    ("27_duplicate_keys", ["duplicate", "b_enc"]),
    ("28_duplicate_keys_differ", ["duplicate", "b_dec"]),
    ("29_trailing_bytes", ["12 bytes after its last tensor"]),
    ("30_wrong_orientation", ["tensor W_enc", "[8, 4]", "transposed"]),
    ("31_cfg_not_json", ["cfg.json", "not valid JSON"]),
    ("32_cfg_missing", ["cfg.json", "cannot be opened"]),
    ("33_cfg_unknown_architecture", ["cfg.json", "architecture quantum"]),
    ("34_cfg_k_too_big", ["cfg.json", "k is 9", "8"]),
    ("35_cfg_k_zero", ["cfg.json", "k is 0"]),
    ("36_cfg_k_string", ["cfg.json", "k is \"2\"", "integer"]),
    ("37_extra_unknown_tensor", ["tensor W_mystery", "unexpected"]),
    ("38_offsets_not_ints", ["data_offsets"]),
    ("39_header_nested_deep", ["header is not valid JSON"]),
    ("40_metadata_not_strings", ["__metadata__", "a string is needed"]),
    ("41_threshold_nan", ["tensor threshold", "[2]", "nan"]),
  ]

  @Test(
    "that are malformed are refused, naming file, tensor and fault", arguments: malformedFolders)
  func malformed(folder: String, naming: [String]) {
    let error = #expect(throws: TensorFileError.self) {
      try SparseAutoencoder(folder: SharedData.path("fixtures/malformed/\(folder)"))
    }
    let message = error?.description ?? ""
    for part in naming + [folder] { #expect(message.contains(part), "\(message)") }
  }

  @Test("the control among the malformed ones loads")
  func control() throws {
    let dictionary = try SparseAutoencoder(
      folder: SharedData.path("fixtures/malformed/00_good_control"))
    #expect(dictionary.selectionRule == .topk(k: 2))
  }
}
