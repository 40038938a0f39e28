import GranuleData
import GranuleDictionary
import GranuleEvaluation
import GranuleFiles
import GranuleTensors
import TestSupport
import Testing

/// What NumPy and SciPy found of a small dictionary: see Fixtures/make_evaluation.py.
struct EvaluationFixture {
  static let (granularities, ks, latents, k) = ([8, 24, 96], [3, 5, 6], 96, 6)
  static let middle = 0.1...0.7

  let file: SafetensorsFile

  init() throws {
    var path = #filePath
    path.removeLast("EvaluationFixture.swift".count)
    file = try SafetensorsFile(FileBytes.read(path + "Fixtures/evaluation.safetensors"))
  }

  /// A tensor's float64 values, row-major.
  func values(_ name: String) throws -> [Double] {
    let tensor = try file.tensor(name)
    return (0..<tensor.count).map {
      tensor.bytes.loadUnaligned(fromByteOffset: $0 * 8, as: Double.self)
    }
  }

  func dictionary() throws -> SparseAutoencoder {
    // The file has W_enc by latent.
    var parts = SparseAutoencoder.Parts(
      encoderWeights: try file.tensor("W_enc").float32(),
      encoderBias: try file.tensor("b_enc").float32(),
      decoderWeights: try file.tensor("W_dec").float32(),
      decoderBias: try file.tensor("b_dec").float32(), selectionRule: .topk(k: Self.k))
    parts.granularities = zip(Self.granularities, Self.ks).map { Granularity(latents: $0, k: $1) }
    return SparseAutoencoder(parts)
  }

  func activations(in folder: TemporaryFolder) throws -> ActivationDataset {
    let tensor = try file.tensor("x")
    let path = "\(folder.path)/x.npy"
    try writeNumpy(tensor.float32().array, shape: tensor.shape, to: path)
    return try ActivationDataset(paths: [path])
  }
}

/// Whether values agree within a share of the largest.
func expectClose(
  _ got: [Double?], _ expected: [Double], within relative: Double, _ what: String,
  sourceLocation: SourceLocation = #_sourceLocation
) {
  let difference = relativeDifference(got, expected)
  #expect(difference <= relative, "\(what): \(difference)", sourceLocation: sourceLocation)
}
