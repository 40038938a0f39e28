import GranuleDictionary
import GranuleFiles
import GranuleInterchange
import GranuleTensors
import Testing

@Suite("Malformed dictionaries")
struct MalformedTests {
  /// Each with what its error must name.
  static let cases: [(name: String, naming: [String])] = [
    ("01_truncated_data", ["sae_weights.safetensors", "tensor b_dec", "needs bytes"]),
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
    ("14_unknown_dtype", ["tensor W_enc", "dtype is \"Q4\""]),
    ("15_negative_shape", ["tensor W_enc", "shape[0]", "at least 0"]),
    ("16_shape_overflow", ["tensor W_enc", "63 bits"]),
    ("17_nan_weight", ["tensor W_enc", "[1, 3]", "nan"]),
    ("18_inf_bias", ["tensor b_enc", "[2]", "inf"]),
    ("19_cfg_d_sae_mismatch", ["tensor b_enc", "[8]", "[16]"]),
    ("20_cfg_d_in_mismatch", ["tensor b_dec", "[4]", "[8]"]),
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
    ("38_offsets_not_ints", ["tensor b_enc", "data_offsets"]),
    ("39_header_nested_deep", ["header is not valid JSON"]),
    ("40_metadata_not_strings", ["__metadata__", "a string is needed"]),
    ("41_threshold_nan", ["tensor threshold", "[2]", "nan"]),
    ("50_npz_bad_crc", ["params.npz", "W_dec.npy", "CRC"]),
    ("51_npz_truncated", ["params.npz", "zip"]),
    ("52_npz_missing_threshold", ["params.npz", "tensor threshold", "missing"]),
    ("53_npz_object_array", ["params.npz", "tensor W_enc", "'|O'"]),
    ("54_npz_threshold_wrong_length", ["params.npz", "tensor threshold", "[7]", "[8]"]),
    ("55_npz_not_a_zip", ["params.npz", "zip"]),
    ("56_npz_shape_exceeds_data", ["params.npz", "tensor b_enc", "needs 36 bytes"]),
    ("57_npz_deflate_bomb", ["params.npz", "tensor b_enc", "missing"]),
    ("60_pt_truncated", ["ae.pt", "zip"]),
    ("61_pt_foreign_global", ["ae.pt", "__builtin__.print"]),
    ("62_pt_group_sizes_bad_sum", ["ae.pt", "tensor group_sizes", "33", "64"]),
    ("63_pt_threshold_negative", ["ae.pt", "tensor threshold", "-1.0", "calibrated"]),
  ]

  @Test("are refused, naming file, tensor and fault", arguments: cases)
  func refused(name: String, naming: [String]) {
    expectRefusal("malformed/\(name)", naming: naming + [name])
  }

  @Test("are all there, and the control among them is read")
  func control() throws {
    let names = try Folder.entries(of: Fixture.path("malformed")).filter { $0 != "README" }
    #expect(names == ["00_good_control"] + Self.cases.map(\.name))
    let dictionary = try DictionaryImport(Fixture.path("malformed/00_good_control")).read()
      .dictionary
    #expect(dictionary.selectionRule == .topk(k: 2))
  }

  @Test(
    "that are sound but of what cannot be served are refused by name",
    arguments: [
      ("sae_lens_tiny/abstopk", ["architecture abstopk", "negative"]),
      ("sae_lens_tiny/transcoder", ["architecture transcoder", "other activations"]),
      ("sparsify_tiny/groupmax", ["activation groupmax"]),
      ("sparsify_tiny/skip_transcoder", ["transcode is true"]),
      ("sae_lens_tiny", ["holds", "dictionaries", "abstopk"]),
      ("no such folder", ["cannot be opened"]),
    ])
  func unsupported(name: String, naming: [String]) { expectRefusal(name, naming: naming) }

  private func expectRefusal(_ name: String, naming: [String]) {
    let error = #expect(throws: FileError.self) {
      try DictionaryImport(Fixture.path(name)).read()
    }
    let message = error?.description ?? ""
    for part in naming { #expect(message.contains(part), "\(message)") }
  }
}
