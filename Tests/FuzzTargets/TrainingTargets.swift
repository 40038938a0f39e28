internal import GranuleDictionary
internal import GranuleFiles
internal import GranuleTensors
internal import GranuleTraining
internal import TestSupport

/// Stands in inputs for the path of the folder that an input is put into.
private let folderMark = "FOLDER"

extension FuzzTarget {
  /// A training run's `config.json` and the state of its last checkpoint, taken up again.
  static let run = FuzzTarget(
    name: "run",
    seeds: {
      let folder = try InputFolder()
      let configuration = try trainingConfiguration(in: folder)
      var steps = 0
      let trainer = try Trainer(
        configuration, source: FileActivations(configuration.activations),
        run: "\(folder.path)/run")
      _ = try trainer.train(shouldStop: {
        steps += 1
        return steps > 2
      })
      return [
        Seed(
          joined([
            marked(try folder.read("run/config.json"), folder.path),
            try folder.read("run/checkpoints/step-2/state.safetensors"),
          ]))
      ]
    },
    run: { bytes in
      let folder = try InputFolder()
      _ = try trainingConfiguration(in: folder)
      let files = files(bytes, count: 2)
      try folder.write(unmarked(files[0], folder.path), to: "run/config.json")
      let checkpoint = "run/checkpoints/step-2"
      try folder.write(files[1], to: "\(checkpoint)/state.safetensors")
      // As if these bytes had been written: a wrong digest would keep them from being read.
      let digest = Digest.sha256(files[1])
      try folder.write(Array("\(digest)\n".utf8), to: "\(checkpoint)/state.sha256")
      do {
        let configuration = try TrainingConfiguration(run: "\(folder.path)/run")
        // A run takes the memory that its configuration asks for, which the fuzzer does not have.
        guard configuration.latents <= 256, configuration.batchTokens <= 256 else {
          return .containerAccepted
        }
        let trainer = try Trainer(
          resuming: "\(folder.path)/run", source: FileActivations(run: "\(folder.path)/run"))
        var steps = 0
        _ = try trainer.train(shouldStop: {
          steps += 1
          return steps > 1
        })
        return .accepted
      } catch {
        try require(error is FileError || error is TrainingError, "\(error) has no type")
        return .refused
      }
    })

  /// A harvest's `manifest.json`, taken up again.
  static let harvest = FuzzTarget(
    name: "harvest",
    seeds: {
      let folder = try harvested()
      return [Seed(marked(try folder.read("out/manifest.json"), folder.path))]
    },
    run: { bytes in
      let folder = try InputFolder()
      let configuration = try harvestConfiguration(in: folder)
      try folder.write(unmarked(bytes, folder.path), to: "out/manifest.json")
      try folder.write(shard.get(), to: "out/\(shardName)")
      do {
        let harvester = try ActivationHarvester(configuration)
        try require(harvester.tokens >= 0, "tokens are counted")
        return .accepted
      } catch {
        try require(error is FileError || error is TrainingError, "\(error) has no type")
        return .refused
      }
    })

  private static let shardName = "layer-1/shard-00000.safetensors"

  /// The shard that the harvest's manifest lists.
  private static let shard = Result { try harvested().read("out/\(shardName)") }

  /// A folder with a whole harvest in `out`.
  private static func harvested() throws -> InputFolder {
    let folder = try InputFolder()
    _ = try ActivationHarvester(harvestConfiguration(in: folder)).harvest()
    return folder
  }

  private static func trainingConfiguration(in folder: InputFolder) throws -> TrainingConfiguration
  {
    var generator = SeededGenerator(seed: 1)
    let path = "\(folder.path)/activations.npy"
    try writeNumpy(generator.normals(6 * 5 * 3), shape: [6, 5, 3], to: path)
    var configuration = TrainingConfiguration(
      latents: 4, granularities: [2, 4], objective: .topk(k: 2), tokens: 64, batchTokens: 8)
    configuration.activations = ActivationFiles([path], heldOutSequences: 1)
    configuration.checkpointEverySteps = 1
    return configuration
  }

  private static func harvestConfiguration(in folder: InputFolder) throws -> HarvestConfiguration {
    try folder.write(TinyLlama.gguf(seed: 1).bytes(), to: "tiny.gguf")
    try folder.write(Array(TinyLlama.text(characters: 60, seed: 1).utf8), to: "text.txt")
    var configuration = HarvestConfiguration(
      model: "\(folder.path)/tiny.gguf", layers: [1], text: ["\(folder.path)/text.txt"],
      out: "\(folder.path)/out")
    configuration.context = 16
    return configuration
  }

  private static func marked(_ bytes: [UInt8], _ path: String) -> [UInt8] {
    replaced(bytes[...], Array(path.utf8), by: Array(folderMark.utf8))
  }

  private static func unmarked(_ bytes: UnsafeRawBufferPointer, _ path: String) -> [UInt8] {
    replaced(Array(bytes)[...], Array(folderMark.utf8), by: Array(path.utf8))
  }

  private static func replaced(
    _ bytes: ArraySlice<UInt8>, _ old: [UInt8], by new: [UInt8]
  ) -> [UInt8] {
    var result: [UInt8] = []
    var rest = bytes
    while let byte = rest.first {
      if rest.starts(with: old) {
        result += new
        rest = rest.dropFirst(old.count)
      } else {
        result.append(byte)
        rest = rest.dropFirst()
      }
    }
    return result
  }
}
