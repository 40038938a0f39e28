import Foundation
import GranuleDictionary
import GranuleFiles
import GranuleInterchange
import GranuleTensors
import TestSupport
import Testing

/// What other libraries computed from dictionaries that they wrote, beside what the imported ones
/// compute. With GRANULE_AGREEMENT=1 the comparison is printed.
@Suite("An imported dictionary")
struct AgreementTests {
  static let saeLens =
    [
      "batchtopk_inference", "covariance_whitening_unfolded", "gated", "gated_nobdec_in", "hook_z",
      "jumprelu_bdec_in", "jumprelu_edges", "jumprelu_nobdec_in", "legacy_v5_topk",
      "norm_constant_norm_rescale", "norm_eaoi_folded", "norm_eaoi_unfolded", "norm_layer_norm",
      "standard_bdec_in", "standard_nobdec_in", "stored_bf16_cfg_f32", "topk_bdec_in",
      "topk_few_positive", "topk_layer_norm", "topk_nobdec_in", "topk_rescale",
    ].map { "sae_lens_tiny/\($0)" }
  static let gemmaScope =
    ["gemma_scope/params.npz"]
    + ["gemma_scope_2", "gemma_scope_2_upper_case"]
  static let others =
    ["expansion_only", "few_positive"].map { "sparsify_tiny/\($0)" }
    + ["batchtopk", "matryoshka", "standard", "topk", "topk_threshold_unset"].map {
      "dictionary_learning_tiny/\($0)"
    }
    + ["dictionary_learning_gated", "dictionary_learning_jumprelu"]
    + ["openai/topk.pt", "openai/relu/relu.pt"]
  static let large = [
    "sae_lens_topk", "sae_lens_jumprelu", "sae_lens_matryoshka/inference", "sparsify_topk",
    "dictionary_learning_topk", "dictionary_learning_matryoshka",
  ]

  func expect(
    _ agreement: Fixture.Agreement, _ what: String, within tolerance: Float = 2e-5,
    sameSupport: Bool = true
  ) {
    if ProcessInfo.processInfo.environment["GRANULE_AGREEMENT"] != nil {
      let error = String(format: "%.1e", agreement.error)
      print("| \(what) | \(error) | \(agreement.differingSupport == 0 ? "same" : "differs") |")
    }
    #expect(agreement.countsAgree, "\(what)")
    #expect(agreement.error <= tolerance, "\(what)")
    if sameSupport { #expect(agreement.differingSupport == 0, "\(what)") }
  }

  func compare(_ fixture: Fixture, _ name: String) throws {
    let latents = fixture.dictionary.latents
    let codes = try fixture.codes(granularity: latents)
    expect(try fixture.agreement(codes, "codes", width: latents), "\(name): codes")
    expect(
      try fixture.agreement(of: codes, reconstructed: "recon", granularity: latents),
      "\(name): reconstructions")
    for granularity in fixture.dictionary.granularities.map(\.latents)
    where fixture.expected["codes_prefix_\(granularity)"] != nil {
      let prefix = try fixture.codes(granularity: granularity)
      expect(
        try fixture.agreement(prefix, "codes_prefix_\(granularity)", width: granularity),
        "\(name): codes at \(granularity)")
      expect(
        try fixture.agreement(
          of: prefix, reconstructed: "recon_prefix_\(granularity)", granularity: granularity),
        "\(name): reconstructions at \(granularity)")
    }
    if fixture.expected["codes_batchtopk"] != nil {
      let expected = try fixture.expected.tensor("codes_batchtopk").float32().array
      let batch = try fixture.batchCodes(count: expected.count { $0 != 0 })
      expect(
        try fixture.agreement(batch, "codes_batchtopk", width: latents),
        "\(name): codes of the whole batch")
    }
  }

  @Test(
    "computes what its library does, within 2e-5 of the largest value",
    arguments: saeLens + gemmaScope + others)
  func float32(name: String) throws { try compare(Fixture(name), name) }

  @Test(
    "of real activations computes what its library does, at each prefix, too",
    .enabled(if: SharedData.isPresent, "../shared/data is not there"), arguments: large)
  func trained(name: String) throws { try compare(Fixture(name), name) }

  @Test(
    "of any variant of NumPy's files is the same",
    arguments: ["bigendian", "deflated", "f64", "fortran", "npyv2_zip64"])
  func numpyVariants(name: String) throws {
    let path = "gemma_scope/variants/params_\(name).npz"
    try compare(Fixture(path, expected: "../expected.safetensors"), path)
  }

  @Test("of float16 is computed in float32, as its library does")
  func numpyFloat16() throws {
    let path = "gemma_scope/variants/params_f16.npz"
    try compare(Fixture(path, expected: "expected_f16.safetensors"), path)
  }

  // Their libraries compute these in the stored precision, 8 and 11 bits, so that supports may
  // differ where latents are nearly tied.
  @Test(
    "of 16 bits agrees as far as their precision goes",
    arguments: [
      ("sae_lens_tiny/standard_bf16", Float(2e-2)), ("sae_lens_tiny/topk_f16", 3e-3),
      ("sparsify_tiny/bf16", 2e-2),
    ])
  func sixteenBits(name: String, tolerance: Float) throws {
    let fixture = try Fixture(name)
    let latents = fixture.dictionary.latents
    let codes = try fixture.codes(granularity: latents)
    expect(
      try fixture.agreement(codes, "codes", width: latents), "\(name): codes", within: tolerance,
      sameSupport: false)
    expect(
      try fixture.agreement(of: codes, reconstructed: "recon", granularity: latents),
      "\(name): reconstructions", within: tolerance, sameSupport: false)
  }

  @Test("takes a scale of activations that its folder does not have")
  func activationScale() throws {
    let name = "sae_lens_tiny/norm_eaoi_unfolded"
    let scale = try Fixture(name).expected.tensor("scaling_factor").float32().array[0]
    let fixture = try Fixture(name, activationScale: Double(scale))
    let codes = try fixture.codes(granularity: 64)
    expect(try fixture.agreement(codes, "codes_if_scaled", width: 64), "\(name), scaled: codes")
    expect(
      try fixture.agreement(of: codes, reconstructed: "recon_if_scaled", granularity: 64),
      "\(name), scaled: reconstructions")
    #expect(fixture.dictionary.provenance.activationScale == Double(scale))
  }

  @Test("of a BatchTopK checkpoint selects as its training did, and has its threshold")
  func batchTopKCheckpoint() throws {
    let name = "sae_lens_tiny/batchtopk_training"
    let fixture = try Fixture(name)
    // k is 6.5.
    let codes = try fixture.batchCodes(count: 208)
    expect(
      try fixture.agreement(codes, "codes_batchtopk", width: 64), "\(name): codes of the batch")
    expect(
      try fixture.agreement(of: codes, reconstructed: "recon_batchtopk", granularity: 64),
      "\(name): reconstructions of the batch")
    // What SAELens makes of the same checkpoint for inference.
    let inference = try Fixture("sae_lens_tiny/batchtopk_inference")
    let own = try fixture.codes(granularity: 64)
    expect(
      .init(
        fixture.dense(own, width: 64), try inference.expected.tensor("codes").float32().array),
      "\(name): codes for inference")
  }

  @Test(
    "of a Matryoshka checkpoint selects as its training did, at each width",
    .enabled(if: SharedData.isPresent, "../shared/data is not there"))
  func matryoshkaCheckpoint() throws {
    let name = "sae_lens_matryoshka/training_checkpoint"
    let fixture = try Fixture(name)
    #expect(fixture.dictionary.granularities.map(\.latents) == [128, 256, 512, 1024])
    let codes = try fixture.batchCodes(count: 32 * fixture.tokens)
    expect(
      try fixture.agreement(codes, "codes_batchtopk", width: 1024), "\(name): codes of the batch")
    for granularity in [128, 256, 512, 1024] {
      expect(
        try fixture.agreement(
          of: codes, reconstructed: "recon_prefix_\(granularity)", granularity: granularity),
        "\(name): reconstructions at \(granularity)")
    }
  }

  @Test("has the granularities that its format records")
  func granularities() throws {
    let fixture = try Fixture("dictionary_learning_tiny/matryoshka")
    #expect(fixture.dictionary.granularities.map(\.latents) == [16, 32, 64])
    var source = try DictionaryImport(Fixture.path("gemma_scope"))
    #expect(try source.read().dictionary.granularities.isEmpty)
    source.granularities = [8, 64]
    #expect(try source.read().dictionary.granularities.map(\.latents) == [8, 64])
    source.granularities = [8, 65]
    #expect(throws: FileError.self) { try source.read() }
  }

  @Test("of OpenAI's is sorted by the mean squares that its file has")
  func sortedByMeanSquares() throws {
    var source = try DictionaryImport(Fixture.path("openai/topk.pt"))
    let plain = try source.read().dictionary
    source.sortsLatents = true
    let sorted = try source.read().dictionary
    let squares = try SafetensorsFile(
      FileBytes.map(Fixture.path("openai/expected.safetensors"))
    ).tensor("latents_mean_square").float32().array
    let order = try #require(sorted.latentOrder)
    // Its decoder rows have unit norm.
    let keys = order.map { squares[$0] }
    #expect(zip(keys, keys.dropFirst()).allSatisfy { $0 >= $1 * (1 - 1e-5) })
    #expect(sorted.encoderBias.array == order.map { plain.encoderBias.array[$0] })
    source = try DictionaryImport(Fixture.path("gemma_scope"))
    source.sortsLatents = true
    #expect(throws: FileError.self) { try source.read() }
  }
}
