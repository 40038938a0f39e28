internal import GranuleDictionary
internal import GranuleEncoder
internal import GranuleFiles
internal import GranuleRepository
internal import GranuleTensors
internal import TestSupport

extension FuzzTarget {
  /// A dictionary's `cfg.json`, weights and companion. What is read can be encoded with at any
  /// granularity, with the plain encoder's answer, cut short, and decoded with.
  static let dictionary = FuzzTarget(
    name: "dictionary",
    seeds: { try dictionaries().map { Seed(joined([$0.config, $0.weights, $0.companion])) } },
    run: { bytes in
      let files = files(bytes, count: 3)
      let dictionary: SparseAutoencoder
      do throws(FileError) {
        dictionary = try SparseAutoencoder(
          files: DictionaryFiles(
            config: FileBytes.copy(files[0], named: "cfg.json"),
            weights: FileBytes.copy(files[1], named: "sae_weights.safetensors"),
            companion: files[2].isEmpty
              ? nil : FileBytes.copy(files[2], named: "granule.safetensors")))
      } catch { return .refused }
      try use(dictionary)
      return .accepted
    })

  /// A repository whose version 1 of a model has this `manifest.json` beside its sound files.
  static let repository = FuzzTarget(
    name: "repository",
    seeds: {
      let folder = try InputFolder()
      let repository = ModelRepository(path: "\(folder.path)/repository")
      try sound.write(to: folder.path)
      _ = try repository.publish(folder: folder.path, name: "m")
      return [Seed(try folder.read("repository/m/1/manifest.json"))]
    },
    run: { bytes in
      let folder = try InputFolder()
      let files = try soundFiles.get()
      try folder.write(files.config, to: "m/1/\(DictionaryFiles.configName)")
      try folder.write(files.weights, to: "m/1/\(DictionaryFiles.weightsName)")
      try folder.write(files.companion, to: "m/1/\(DictionaryFiles.companionName)")
      try folder.write(bytes, to: "m/1/manifest.json")
      let repository = ModelRepository(path: folder.path)
      try require(try repository.versions(of: "m") == [1], "a manifest makes a version")
      do throws(ModelRepositoryError) {
        let latents = try repository.load("m", version: 1).dictionary.latents
        _ = try repository.load("m", version: 1, latents: latents / 2)
      } catch { return .refused }
      return .accepted
    })

  /// Encodes and decodes a few tokens in every way that a server may.
  private static func use(_ dictionary: SparseAutoencoder) throws {
    let (dModel, latents) = (dictionary.dModel, dictionary.latents)
    guard dModel * latents <= 1 << 14 else { return }
    var generator = SeededGenerator(seed: UInt64(dModel * latents))
    let tokens = 3
    let activations = FloatStorage(
      [Float](repeating: 0, count: dModel) + generator.normals(dModel)
        + generator.normals(dModel, scale: 1e18))
    let encoder = try SparseEncoder(dictionary)
    let workspace = EncodeWorkspace()
    for granularity in Set([1, (latents + 1) / 2, latents]).sorted() {
      let k = dictionary.defaultK(at: granularity)
      try require((0...granularity).contains(k), "k is at most the granularity")
      let expected: Result<SparseCodes, EncodingError>
      do throws(EncodingError) {
        expected = .success(
          try ReferenceEncoder(dictionary).encode(activations.array, granularity: granularity))
      } catch { expected = .failure(error) }
      let codes: Result<SparseCodes, EncodingError>
      do throws(EncodingError) {
        codes = .success(
          try encoder.encode(
            EncodeInput(activations: activations.values, granularity: granularity), in: workspace))
      } catch { codes = .failure(error) }
      // What might overflow is refused, where the plain encoder would try.
      guard codes != .failure(.overflow(token: 0)), codes != .failure(.overflow(token: 1)),
        codes != .failure(.overflow(token: 2))
      else { continue }
      try require(
        codes == expected,
        "codes at \(granularity) are those of the plain encoder: \(codes), not \(expected)")
      guard case .success(let codes) = codes else { continue }
      let output = FloatStorage(count: tokens * dModel)
      do throws(DecodingError) { try encoder.decode(codes, into: output.pointer) } catch {}
      var errors = [Float](repeating: 0, count: tokens)
      encoder.nestedDecode(
        codes, activations: activations.values, granularities: [granularity], squaredErrors: &errors
      )
      let part = dictionary.standalone(granularity: granularity)
      try require(part.latents == granularity, "a dictionary can be cut short")
    }
    _ = dictionary.totalVariance(of: activations.values)
  }

  private struct Files {
    var config: [UInt8]
    var weights: [UInt8]
    var companion: [UInt8]
  }

  private static var sound: SparseAutoencoder {
    .random(dModel: 4, latents: 8, rule: .topk(k: 3), seed: 1) {
      $0.granularities = [
        Granularity(latents: 4, k: 2, l0: 2, fvu: 0.5), Granularity(latents: 8, k: 3),
      ]
      $0.latentOrder = [7, 6, 5, 4, 3, 2, 1, 0]
      $0.activationDeviation = [1, 2, 3, 4]
    }
  }

  private static let soundFiles = Result { try written(sound) }

  private static func written(_ dictionary: SparseAutoencoder) throws -> Files {
    let folder = try InputFolder()
    try dictionary.write(to: folder.path)
    return Files(
      config: try folder.read(DictionaryFiles.configName),
      weights: try folder.read(DictionaryFiles.weightsName),
      companion: try folder.read(DictionaryFiles.companionName))
  }

  private static func dictionaries() throws -> [Files] {
    var files = try [
      sound, .random(dModel: 3, latents: 5, rule: .relu, seed: 2),
      .random(dModel: 3, latents: 5, rule: .threshold([0.1, 0, 0.2, 1, 0.5]), seed: 3),
    ].map(written)
    // What SAELens writes, of today and of old.
    let configs = [
      #"{"architecture": "topk", "d_in": 4, "d_sae": 8, "k": 3, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": false, "rescale_acts_by_decoder_norm": true, "normalize_activations": "layer_norm", "reshape_activations": "none", "metadata": {"sae_lens_version": "6.0.0", "model_name": "m", "hook_name": "h", "training_architecture_details": {"matryoshka_widths": [2, 8]}}}"#,
      #"{"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "d_in": 4, "d_sae": 8, "dtype": "torch.float32", "hook_point": "h", "normalize_activations": "constant_norm_rescale"}"#,
    ]
    files += configs.map {
      Files(config: Array($0.utf8), weights: files[0].weights, companion: [])
    }
    return files
  }
}
