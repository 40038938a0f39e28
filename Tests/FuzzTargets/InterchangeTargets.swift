internal import Foundation
internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleInterchange
internal import GranuleTensors

extension FuzzTarget {
  /// An archive of NumPy's, as Gemma Scope has it.
  static let npz = FuzzTarget(
    name: "npz", seeds: { try fixtures(withSuffix: ".npz") },
    run: { bytes in try read(bytes, as: "params.npz", .gemmaScope) })

  /// torch's zip of a state dict, as dictionary_learning and OpenAI have it.
  static let torch = FuzzTarget(
    name: "torch", seeds: { try fixtures(withSuffix: ".pt") },
    run: { bytes in
      var verdicts = [
        try read(bytes, as: "ae.pt", .dictionaryLearning), try read(bytes, as: "ae.pt", .openAI),
      ]
      // Tensors alone do not tell these two apart.
      for name in ["AutoEncoderTopK", "BatchTopKSAE"] {
        let configuration = #"{"trainer": {"dict_class": "\#(name)"}}"#
        verdicts.append(
          try read(bytes, as: "ae.pt", .dictionaryLearning, configuration: configuration))
      }
      return verdicts.contains(.accepted) ? .accepted : .refused
    })

  /// The pickle of a state dict, without the zip around it, whose checksum would stop most changes.
  static let pickle = FuzzTarget(
    name: "pickle",
    seeds: {
      // torch stores entries as they are: a pickle begins with its protocol and ends with a dot,
      // before the next entry's header.
      try fixtures(withSuffix: ".pt").compactMap { seed in
        let bytes = seed.bytes
        guard let start = firstRange(of: [0x80, 2], in: bytes),
          let end = firstRange(of: Array("u.PK".utf8), in: bytes), start < end
        else { return nil }
        return Seed(Array(bytes[start..<end + 2]), seed.verdict == .accepted ? .accepted : nil)
      }
    },
    run: { bytes in
      let reader = PickleReader(
        knownGlobals: TorchFile.globals,
        persistent: { id in PickledValue(object: id.tuple?.count ?? 0) },
        call: { _, arguments in PickledValue(object: arguments.count) })
      let value: PickledValue
      do throws(PickleError) { value = try reader.read(Array(bytes)) } catch { return .refused }
      try require(
        value.depth <= PickleReader.depthMax,
        "containers are nested at most \(PickleReader.depthMax) deep")
      return .accepted
    })

  private static func firstRange(of pattern: [UInt8], in bytes: [UInt8]) -> Int? {
    bytes.indices.dropLast(pattern.count - 1).first {
      bytes[$0..<$0 + pattern.count].elementsEqual(pattern)
    }
  }

  /// A folder of sparsify: `cfg.json` and `sae.safetensors`.
  static let sparsify = FuzzTarget(
    name: "sparsify",
    seeds: {
      try ["expansion_only", "bf16", "groupmax"].map { name in
        let folder = "\(fixturesFolder)/sparsify_tiny/\(name)"
        let files = [try file("\(folder)/cfg.json"), try file("\(folder)/sae.safetensors")]
        return Seed(joined(files), name == "groupmax" ? .refused : .accepted)
      }
    },
    run: { bytes in
      let files = files(bytes, count: 2)
      let folder = try InputFolder()
      try folder.write(files[0], to: "cfg.json")
      try folder.write(files[1], to: "sae.safetensors")
      return try read(folder.path, .sparsify)
    })

  private static func read(
    _ bytes: UnsafeRawBufferPointer, as name: String, _ format: DictionaryFormat,
    configuration: String? = nil
  ) throws -> Verdict {
    let folder = try InputFolder()
    if let configuration { try folder.write(Array(configuration.utf8), to: "config.json") }
    try folder.write(bytes, to: name)
    return try read("\(folder.path)/\(name)", format)
  }

  /// What is read has finite weights of the shapes that it claims.
  private static func read(_ path: String, _ format: DictionaryFormat) throws -> Verdict {
    let result: DictionaryImport.Result
    do throws(FileError) {
      result = try DictionaryImport(path, format: format).read()
    } catch { return .refused }
    let dictionary = result.dictionary
    try require(
      dictionary.encoderWeights.count == dictionary.latents * dictionary.dModel
        && dictionary.decoderWeights.count == dictionary.latents * dictionary.dModel,
      "weights have the shapes of a dictionary")
    try require(
      dictionary.encoderWeights.values.allSatisfy(\.isFinite)
        && dictionary.decoderWeights.values.allSatisfy(\.isFinite)
        && dictionary.encoderBias.values.allSatisfy(\.isFinite)
        && dictionary.decoderBias.values.allSatisfy(\.isFinite), "weights are finite")
    return .accepted
  }

  static let fixturesFolder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("InterchangeTests/Fixtures").path

  private static func file(_ path: String) throws -> [UInt8] {
    let file = try FileBytes.read(path)
    return Array(file.bytes)
  }

  /// The fixtures of the tests. Malformed ones are here, too: some are sound files of unsound
  /// dictionaries, and the tests of dictionaries are about what is said to them.
  static func fixtures(withSuffix suffix: String) throws -> [Seed] {
    try FileManager.default.subpathsOfDirectory(atPath: fixturesFolder).sorted()
      .filter { $0.hasSuffix(suffix) && !$0.hasSuffix("expected\(suffix)") }
      .map {
        Seed(try file("\(fixturesFolder)/\($0)"), $0.contains("malformed/") ? nil : .accepted)
      }
  }
}
