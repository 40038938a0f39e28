import GranuleDictionary
import GranuleEncoder
import GranuleTensors
import TestSupport
import Testing

/// How a fast encoder is made to work.
struct EncodeManner: CustomStringConvertible {
  var cpu: EncoderCPU
  var path: EncodePath

  var description: String { "\(cpu) \(path)" }

  /// Every manner that this machine can.
  static let all = EncoderCPU.supported.flatMap { cpu in
    [EncodePath.screened, .exact].map { EncodeManner(cpu: cpu, path: $0) }
  }
}

extension SparseAutoencoder {
  /// An encoder that works as it is told.
  func encoder(
    _ cpu: EncoderCPU = .current, _ path: EncodePath? = nil, guessMargin: Float = 2.5,
    batchGuessFactor: Float? = nil
  ) throws -> SparseEncoder {
    var options = EncodingOptions()
    options.cpu = cpu
    options.path = path
    options.guessMargin = guessMargin
    options.batchGuessFactor = batchGuessFactor
    return try SparseEncoder(self, options: options)
  }

  /// What the plain encoder answers.
  func expected(_ activations: [Float], granularity: Int, k: Int? = nil) throws -> SparseCodes {
    try ReferenceEncoder(self).encode(activations, granularity: granularity, k: k)
  }
}

/// Expects the same codes to the bit; names the first token that differs.
func expectEqual(
  _ codes: SparseCodes, _ expected: SparseCodes, _ what: @autoclosure () -> String,
  sourceLocation: SourceLocation = #_sourceLocation
) {
  guard codes != expected else { return }
  guard codes.tokens == expected.tokens else {
    Issue.record(
      "\(what()): \(codes.tokens) tokens, not \(expected.tokens)", sourceLocation: sourceLocation)
    return
  }
  func code(_ codes: SparseCodes, _ token: Int) -> [UInt32: UInt32] {
    let range = Int(codes.rowOffsets[token])..<Int(codes.rowOffsets[token + 1])
    return Dictionary(
      uniqueKeysWithValues: range.map { (codes.indices[$0], codes.values[$0].bitPattern) })
  }
  let token = (0..<codes.tokens).first { code(codes, $0) != code(expected, $0) } ?? 0
  let (found, wanted) = (code(codes, token), code(expected, token))
  let missing = wanted.keys.filter { found[$0] == nil }.count
  let extra = found.keys.filter { wanted[$0] == nil }.count
  let inexact = wanted.filter { found[$0.key] != nil && found[$0.key] != $0.value }.count
  Issue.record(
    """
    \(what()) token \(token): of \(wanted.count) latents \(missing) missing, \(extra) too many, \
    \(inexact) inexact
    """, sourceLocation: sourceLocation)
}
