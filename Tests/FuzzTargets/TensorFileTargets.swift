internal import GranuleFiles
internal import GranuleTensors
internal import GranuleTraining
internal import TestSupport

extension FuzzTarget {
  /// safetensors; its tensors fill the file's data, each element can be used.
  static let safetensors = FuzzTarget(
    name: "safetensors",
    seeds: {
      try safetensorsSeeds()
        + fixtures(withSuffix: "sae_weights.safetensors").filter { $0.bytes.count < 1024 }
    },
    run: { bytes in
      let file: SafetensorsFile
      do throws(FileError) {
        file = try SafetensorsFile(FileBytes.copy(bytes, named: "fuzz.safetensors"))
      } catch { return .refused }
      for tensor in file.tensors { try readAll(tensor) }
      let end = file.tensors.reduce(0) { $0 + $1.bytes.count }
      try require(end <= bytes.count - 8, "tensors lie within the file")
      return .accepted
    })

  /// A NumPy array.
  static let npy = FuzzTarget(
    name: "npy", seeds: npySeeds,
    run: { bytes in
      let file: NumpyFile
      do throws(FileError) {
        file = try NumpyFile(FileBytes.copy(bytes, named: "fuzz.npy"))
      } catch { return .refused }
      try readAll(file.tensor)
      return .accepted
    })

  /// A folder with one file of activations, in either format.
  static let activations = FuzzTarget(
    name: "activations",
    seeds: {
      // The last ones have no dimension of tokens, and no tensor of activations.
      let (npy, safetensors) = (try npySeeds(), try safetensorsSeeds())
      return npy.dropLast() + safetensors.dropLast()
        + [npy, safetensors].flatMap { $0.suffix(1) }.map { Seed($0.bytes, .refused) }
    },
    run: { bytes in
      let folder = try InputFolder()
      let isNumpy = bytes.first == 0x93
      try folder.write(bytes, to: isNumpy ? "activations.npy" : "activations.safetensors")
      let dataset: ActivationDataset
      do { dataset = try ActivationDataset(paths: [folder.path]) } catch {
        try require(error is FileError || error is TrainingError, "the error has a type")
        return .refused
      }
      let values = dataset.allTokens()
      try require(values.count == dataset.tokens * dataset.dModel, "every token is read")
      if dataset.tokens > 0 { _ = dataset.describe(token: dataset.tokens - 1) }
      return .accepted
    })

  private static func npySeeds() throws -> [Seed] {
    let folder = try InputFolder()
    try writeNumpy([1, 2, 3, 4, 5, 6], shape: [3, 2], to: "\(folder.path)/a")
    try writeNumpy([1, 2, 3, 4, 5, 6, 7, 8], shape: [2, 2, 2], to: "\(folder.path)/b")
    let half = Array("\u{1}\u{0}v\u{0}".utf8)
    let header = "{'descr': '<f2', 'fortran_order': False, 'shape': (3,), }" + "\n"
    let version1 = Array("NUMPY".utf8)
    return [
      Seed(try folder.read("a")), Seed(try folder.read("b")),
      Seed(
        [0x93] + version1 + [half[0], half[1], UInt8(header.utf8.count), 0] + Array(header.utf8)
          + [0, 0x3C, 0, 0x40, 0, 0x42]),
    ]
  }

  private static func safetensorsSeeds() throws -> [Seed] {
    let folder = try InputFolder()
    let path = "\(folder.path)/a"
    // As 64-bit integers it begins with 0 and 3.
    let bytes = [0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0] + [UInt8](16..<64)
    func write(
      _ entries: (UnsafeRawBufferPointer) -> [SafetensorsWriter.Entry],
      metadata: [String: String] = [:]
    ) throws -> Seed {
      try bytes.withUnsafeBytes {
        try SafetensorsWriter.write(entries($0), metadata: metadata, to: path)
      }
      return Seed(try folder.read("a"))
    }
    func part(_ bytes: UnsafeRawBufferPointer, _ count: Int) -> UnsafeRawBufferPointer {
      UnsafeRawBufferPointer(rebasing: bytes[..<count])
    }
    return [
      try write(
        {
          [
            .init("activations", .float32, [5, 2], part($0, 40)),
            .init("sequence_starts", .int64, [2], part($0, 16)),
            .init("token_ids", .int32, [5], part($0, 20)),
          ]
        }, metadata: ["model": "tiny", "hook": "blocks.1.hook_resid_pre"]),
      try write { [.init("activations", .bfloat16, [2, 3, 2], part($0, 24))] },
      try write {
        [
          .init("a", .float16, [2, 2], part($0, 8)), .init("b", .float64, [1, 2], part($0, 16)),
          .init("c", .uint64, [], part($0, 8)), .init("d", .uint8, [0, 3], part($0, 0)),
          .init("e", .bool, [3], part($0, 3)),
        ]
      },
    ]
  }
}
