internal import Glibc
internal import GranuleData
internal import GranuleErrors
internal import GranuleFiles
internal import GranuleStep
internal import GranuleTensors

/// All that a run needs to go on as if it had never stopped: `RUN/checkpoints/step-N/`, a folder
/// that is there whole or not at all.
struct Checkpoint {
  static let folderName = "checkpoints"
  private static let prefix = "step-"
  /// Beyond any run, and small enough that its tokens fit 63 bits.
  private static let stepsMax = 1 << 40
  private static let stateName = "state.safetensors"
  /// SHA-256 of the state: a checkpoint with a flipped bit is not used.
  private static let digestName = "state.sha256"

  /// Steps done.
  var step: Int
  var weights: DictionaryWeights
  var optimizer: AdamOptimizer
  /// For each latent, tokens since it was last active.
  var tokensSinceActive: [Int]
  var statistics: ActivationStatistics
  /// BatchTopK's running mean of the least value kept; nil before the first step, and for others.
  var servingThreshold: Double?
  /// What the watch for divergence compares the next losses with, the oldest first.
  var recentLosses: [Double] = []

  /// Writes the checkpoint; once it is on the disk, removes all but the newest.
  ///
  /// - Parameter kept: how many stay.
  /// - Throws: `FileError` with the system's reason; older checkpoints are still there then.
  func write(run: String, kept: Int) throws(FileError) {
    let folder = "\(run)/\(Self.folderName)"
    let temporary = "\(folder)/.new"
    Self.remove(temporary)
    try Folder.make(temporary)
    var entries: [SafetensorsWriter.Entry] = []
    for (prefix, part) in [
      ("", weights), ("first_moment.", optimizer.firstMoments),
      ("second_moment.", optimizer.secondMoments),
    ] {
      for (name, shape, values) in part.named {
        entries.append(.init(prefix + name, shape, values))
      }
    }
    entries.append(.init("activation_mean", [weights.dModel], FloatStorage(statistics.mean)))
    entries.append(
      .init("activation_deviation", [weights.dModel], FloatStorage(statistics.deviation)))
    do throws(FileError) {
      try tokensSinceActive.map { Int64($0) }.withBytes { (ages) throws(FileError) in
        // In one buffer: the scale, then the losses.
        try ([statistics.scale] + recentLosses).withBytes { (numbers) throws(FileError) in
          let scaleBytes = MemoryLayout<Double>.size
          entries.append(.init("tokens_since_active", .int64, [weights.latents], ages))
          entries.append(
            .init(
              "activation_scale", .float64, [],
              UnsafeRawBufferPointer(rebasing: numbers[..<scaleBytes])))
          if !recentLosses.isEmpty {
            entries.append(
              .init(
                "recent_losses", .float64, [recentLosses.count],
                UnsafeRawBufferPointer(rebasing: numbers[scaleBytes...])))
          }
          var metadata = ["step": String(step), "optimizer_steps": String(optimizer.steps)]
          // All of its bits: as decimal digits it might lose some.
          metadata["serving_threshold_bits"] = servingThreshold.map { String($0.bitPattern) }
          try SafetensorsWriter.write(
            entries, metadata: metadata, to: "\(temporary)/\(Self.stateName)")
        }
      }
      let written = try FileBytes.map("\(temporary)/\(Self.stateName)")
      try Array((Digest.sha256(written) + "\n").utf8).withBytes { (text) throws(FileError) in
        try DurableFile.write([text], to: "\(temporary)/\(Self.digestName)")
      }
      try DurableFile.flushFolder(temporary)
    } catch {
      Self.remove(temporary)
      throw error
    }
    let target = "\(folder)/\(Self.prefix)\(step)"
    Self.remove(target)
    guard rename(temporary, target) == 0 else {
      throw FileError(file: target, fault: String(cString: strerror(errno)))
    }
    try DurableFile.flushFolder(folder)
    for old in Self.steps(run: run).dropLast(kept) {
      Self.remove("\(folder)/\(Self.prefix)\(old)")
    }
  }

  /// The steps of a run's checkpoints, ascending.
  static func steps(run: String) -> [Int] {
    let names = (try? Folder.entries(of: "\(run)/\(folderName)")) ?? []
    return names.filter { $0.hasPrefix(prefix) }.compactMap { Int($0.dropFirst(prefix.count)) }
      .filter { (0...stepsMax).contains($0) }.sorted()
  }

  /// Reads the newest checkpoint of a run that can be read, nil if there is none at all.
  ///
  /// - Parameter onDamaged: told why the newest cannot be read, if an older one can.
  /// - Throws: `FileError` or `TrainingError` of the newest if none can be read.
  static func latest(
    run: String, latents: Int, dModel: Int, hasThresholds: Bool, onDamaged: (String) -> Void
  ) throws -> Checkpoint? {
    var failure: (any Error)?
    for step in steps(run: run).reversed() {
      do {
        let checkpoint = try read(
          step: step, run: run, latents: latents, dModel: dModel, hasThresholds: hasThresholds)
        if let failure { onDamaged("\(failure)") }
        return checkpoint
      } catch {
        failure = failure ?? error
      }
    }
    if let failure { throw failure }
    return nil
  }

  private static func read(
    step: Int, run: String, latents: Int, dModel: Int, hasThresholds: Bool
  ) throws -> Checkpoint {
    let folder = "\(run)/\(folderName)/\(prefix)\(step)"
    let path = "\(folder)/\(stateName)"
    let bytes = try FileBytes.read(path)
    let digest = try FileBytes.read("\(folder)/\(digestName)", byteCountMax: 1 << 10).text
    guard digest == Digest.sha256(bytes) + "\n" else {
      throw TrainingError.damaged(path, "its bytes are not those that \(digestName) was made of")
    }
    let file = try SafetensorsFile(bytes)
    let weights = DictionaryWeights(
      latents: latents, dModel: dModel, hasThresholds: hasThresholds)
    var optimizer = AdamOptimizer(
      latents: latents, dModel: dModel, hasThresholds: hasThresholds)
    for (prefix, part) in [
      ("", weights), ("first_moment.", optimizer.firstMoments),
      ("second_moment.", optimizer.secondMoments),
    ] {
      for (name, shape, values) in part.named {
        let tensor = try file.tensor(prefix + name)
        guard tensor.shape == shape else {
          throw tensor.fault("has shape \(tensor.shape), the run's configuration needs \(shape)")
        }
        try tensor.copyFloat32(elements: 0..<tensor.count, into: values.pointer)
      }
    }
    guard let optimizerSteps = file.metadata["optimizer_steps"].flatMap(Int.init),
      (0...stepsMax).contains(optimizerSteps)
    else { throw TrainingError.damaged(path, "the metadata has no optimizer_steps in 0 … 2^40") }
    optimizer.steps = optimizerSteps
    let ages = try file.tensor("tokens_since_active")
    let mean = try file.tensor("activation_mean").float32().array
    let deviation = try file.tensor("activation_deviation").float32().array
    let scale = try file.tensor("activation_scale")
    guard ages.shape == [latents], mean.count == dModel, deviation.count == dModel,
      scale.type == .float64, scale.count == 1
    else { throw TrainingError.damaged(path, "does not fit the run's configuration") }
    let tokensSinceActive = try ages.integers()
    guard tokensSinceActive.allSatisfy({ (0...1 << 50).contains($0) }) else {
      throw ages.fault("has a count that no run reaches")
    }
    return Checkpoint(
      step: step, weights: weights, optimizer: optimizer, tokensSinceActive: tokensSinceActive,
      statistics: ActivationStatistics(
        mean: mean, deviation: deviation, scale: scale.bytes.loadUnaligned(as: Double.self)),
      servingThreshold: file.metadata["serving_threshold_bits"].flatMap { UInt64($0) }
        .map { Double(bitPattern: $0) },
      recentLosses: try recentLosses(file))
  }

  private static func recentLosses(_ file: SafetensorsFile) throws -> [Double] {
    guard let tensor = file["recent_losses"] else { return [] }
    guard tensor.type == .float64, tensor.count <= DivergenceWatch.window else {
      throw tensor.fault("has \(tensor.count) values, at most \(DivergenceWatch.window) are kept")
    }
    let losses = (0..<tensor.count).map {
      tensor.bytes.loadUnaligned(fromByteOffset: 8 * $0, as: Double.self)
    }
    guard losses.allSatisfy(\.isFinite) else { throw tensor.fault("has a loss that is not finite") }
    return losses
  }

  private static func remove(_ folder: String) {
    unlink("\(folder)/\(stateName)")
    unlink("\(folder)/\(digestName)")
    rmdir(folder)
  }
}
