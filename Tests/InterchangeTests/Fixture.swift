import Foundation
import GranuleDictionary
import GranuleEncoder
import GranuleFiles
import GranuleInterchange
import GranuleTensors
import TestSupport

/// A dictionary that another library wrote, with what that library computes from it.
struct Fixture {
  let dictionary: SparseAutoencoder
  let notes: [DictionaryImport.Note]
  let expected: SafetensorsFile
  let activations: FloatStorage
  let tokens: Int

  /// Fixtures that lie with the tests: small ones, of random weights or hardly trained.
  static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("Fixtures").path

  /// Trained on real activations: too large to be copied here.
  static func isLarge(_ name: String) -> Bool {
    !FileManager.default.fileExists(atPath: path(name, in: folder))
  }

  static func path(_ name: String) -> String {
    path(name, in: isLarge(name) ? SharedData.path("fixtures") : folder)
  }

  private static func path(_ name: String, in folder: String) -> String { "\(folder)/\(name)" }

  /// - Parameter expected: the file of the library's outputs, beside the dictionary.
  init(
    _ name: String, expected outputs: String = "expected.safetensors",
    activationScale: Double? = nil
  ) throws {
    let path = Self.path(name)
    var source = try DictionaryImport(path)
    source.activationScale = activationScale
    let imported = try source.read()
    // As it will be read again.
    let folder = try TemporaryFolder()
    try imported.dictionary.write(newFolder: "\(folder.path)/imported")
    dictionary = try SparseAutoencoder(folder: "\(folder.path)/imported")
    notes = imported.notes
    let beside =
      path.hasSuffix(".npz") || path.hasSuffix(".pt")
      ? URL(fileURLWithPath: path).deletingLastPathComponent().path : path
    expected = try SafetensorsFile(FileBytes.map("\(beside)/\(outputs)"))
    activations = try expected.tensor("x").float32()
    tokens = activations.count / dictionary.dModel
  }

  /// How two arrays compare.
  struct Agreement {
    /// The largest difference over the largest value expected.
    var error: Float = 0
    /// How many are nonzero in one only.
    var differingSupport = 0
    var countsAgree = true

    init(_ got: [Float], _ expected: [Float]) {
      countsAgree = got.count == expected.count
      var difference: Float = 0
      var largest: Float = 0
      for (a, b) in zip(got, expected) {
        difference = max(difference, (a - b).magnitude)
        largest = max(largest, b.magnitude)
        if (a != 0) != (b != 0) { differingSupport += 1 }
      }
      error = largest > 0 ? difference / largest : difference
    }
  }

  /// Codes at a granularity, by the dictionary's own rule.
  func codes(granularity: Int) throws -> SparseCodes {
    try dictionary.encoded(activations.array, granularity: granularity)
  }

  /// What a batch's selection gives: the `count` largest positive pre-activations of the whole batch,
  /// as BatchTopK trains.
  func batchCodes(count: Int) throws -> SparseCodes {
    var parts = dictionary.parts
    parts.selectionRule = .relu
    let all = try SparseAutoencoder(parts).encoded(activations.array)
    let least = all.values.sorted(by: >)[count - 1]
    var (rowOffsets, indices, values): ([UInt32], [UInt32], [Float]) = ([0], [], [])
    for token in 0..<tokens {
      for position in Int(all.rowOffsets[token])..<Int(all.rowOffsets[token + 1])
      where all.values[position] >= least {
        indices.append(all.indices[position])
        values.append(all.values[position])
      }
      rowOffsets.append(UInt32(indices.count))
    }
    return try SparseCodes(rowOffsets: rowOffsets, indices: indices, values: values)
  }

  func dense(_ codes: SparseCodes, width: Int) -> [Float] {
    var dense = [Float](repeating: 0, count: tokens * width)
    for token in 0..<tokens {
      for position in Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1]) {
        dense[token * width + Int(codes.indices[position])] = codes.values[position]
      }
    }
    return dense
  }

  func reconstructions(_ codes: SparseCodes, granularity: Int) throws -> [Float] {
    var errors = [Float](repeating: 0, count: tokens)
    var result = [Float](repeating: 0, count: activations.count)
    try SparseEncoder(dictionary).nestedDecode(
      codes, activations: activations.values, granularities: [granularity], squaredErrors: &errors,
      reconstructions: &result)
    return result
  }

  /// Codes beside those expected under a name.
  func agreement(_ codes: SparseCodes, _ name: String, width: Int) throws -> Agreement {
    Agreement(dense(codes, width: width), try expected.tensor(name).float32().array)
  }

  /// Reconstructions beside those expected under a name.
  func agreement(of codes: SparseCodes, reconstructed name: String, granularity: Int) throws
    -> Agreement
  {
    Agreement(
      try reconstructions(codes, granularity: granularity), try expected.tensor(name).float32().array)
  }
}
