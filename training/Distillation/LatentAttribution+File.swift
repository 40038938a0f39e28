internal import GranuleErrors
internal import GranuleFiles
internal import GranuleTensors

// A cycle's attributions on the disk, so that they are computed once.
extension LatentAttribution {
  /// Writes `score` and `frequency`, [granularity] float64.
  func write(to path: String) throws(FileError) {
    try scores.withBytes { (scores) throws(FileError) in
      try frequencies.withBytes { (frequencies) throws(FileError) in
        var metadata = [
          "tokens": String(tokens), "cross_entropy_bits": String(crossEntropy.bitPattern),
        ]
        metadata["seconds"] = seconds.map { String($0) }
        try SafetensorsWriter.write(
          [
            .init("score", .float64, [self.scores.count], scores),
            .init("frequency", .float64, [self.scores.count], frequencies),
          ],
          metadata: metadata, to: path)
      }
    }
  }

  /// Reads what `write` wrote.
  ///
  /// - Throws: `TrainingError` or `FileError` if it is not of `granularity` latents.
  init(path: String, granularity: Int) throws {
    let file = try SafetensorsFile(FileBytes.read(path))
    func values(_ name: String) throws -> [Double] {
      let tensor = try file.tensor(name)
      guard tensor.type == .float64, tensor.shape == [granularity] else {
        throw tensor.fault("has shape \(tensor.shape), [\(granularity)] of F64 is needed")
      }
      let values = (0..<tensor.count).map {
        tensor.bytes.loadUnaligned(fromByteOffset: 8 * $0, as: Double.self)
      }
      guard values.allSatisfy({ $0 >= 0 && $0.isFinite }) else {
        throw tensor.fault("has a value that is negative or not finite")
      }
      return values
    }
    guard let tokens = file.metadata["tokens"].flatMap({ Int($0) }), tokens > 0,
      let bits = file.metadata["cross_entropy_bits"].flatMap({ UInt64($0) })
    else {
      throw TrainingError.damaged(path, "the metadata has no tokens or no cross_entropy_bits")
    }
    self.init(
      scores: try values("score"), frequencies: try values("frequency"), tokens: tokens,
      crossEntropy: Double(bitPattern: bits))
    seconds = file.metadata["seconds"].flatMap { Double($0) }.flatMap { $0.isFinite ? $0 : nil }
  }
}
