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
      try read(bytes, as: "ae.pt", .dictionaryLearning)
      try read(bytes, as: "ae.pt", .openAI)
    })

  /// The pickle of a state dict, without the zip around it, whose checksum would stop most changes.
  static let pickle = FuzzTarget(
    name: "pickle",
    seeds: {
      // torch stores entries as they are: a pickle begins with its protocol and ends with a dot,
      // before the next entry's header.
      try fixtures(withSuffix: ".pt").compactMap { bytes in
        guard let start = firstRange(of: [0x80, 2], in: bytes),
          let end = firstRange(of: Array("u.PK".utf8), in: bytes), start < end
        else { return nil }
        return Array(bytes[start..<end + 2])
      }
    },
    run: { bytes in
      let reader = PickleReader(
        knownGlobals: TorchFile.globals,
        persistent: { id in PickledValue(object: id.tuple?.count ?? 0) },
        call: { _, arguments in PickledValue(object: arguments.count) })
      let value: PickledValue
      do throws(PickleError) { value = try reader.read(Array(bytes)) } catch { return }
      try require(value.depth <= PickleReader.depthMax, "containers are nested at most so deep")
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
        return joined([try file("\(folder)/cfg.json"), try file("\(folder)/sae.safetensors")])
      }
    },
    run: { bytes in
      let files = files(bytes, count: 2)
      let folder = try InputFolder()
      try folder.write(files[0], to: "cfg.json")
      try folder.write(files[1], to: "sae.safetensors")
      try read(folder.path, .sparsify)
    })

  private static func read(
    _ bytes: UnsafeRawBufferPointer, as name: String, _ format: DictionaryFormat
  ) throws {
    let folder = try InputFolder()
    try folder.write(bytes, to: name)
    try read("\(folder.path)/\(name)", format)
  }

  /// What is read has finite weights of the shapes that it claims.
  private static func read(_ path: String, _ format: DictionaryFormat) throws {
    let result: DictionaryImport.Result
    do throws(FileError) {
      result = try DictionaryImport(path, format: format).read()
    } catch { return }
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
  }

  static let fixturesFolder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("InterchangeTests/Fixtures").path

  private static func file(_ path: String) throws -> [UInt8] {
    let file = try FileBytes.read(path)
    return Array(file.bytes)
  }

  /// The fixtures of the tests, malformed ones included.
  static func fixtures(withSuffix suffix: String) throws -> [[UInt8]] {
    try FileManager.default.subpathsOfDirectory(atPath: fixturesFolder).sorted()
      .filter { $0.hasSuffix(suffix) && !$0.hasSuffix("expected\(suffix)") }
      .map { try file("\(fixturesFolder)/\($0)") }
  }
}
