/// The shape of a Llama-family language model, and the constants that its arithmetic needs.
public struct LlamaConfiguration: Sendable, Equatable {
  /// Number of transformer blocks.
  public var blocks: Int
  /// Width of the residual stream.
  public var dModel: Int
  /// Width of the gated feed-forward layer.
  public var feedForward: Int
  /// Query heads.
  public var heads: Int
  /// Key and value heads; each serves `heads / keyValueHeads` query heads.
  public var keyValueHeads: Int
  /// Width of a head; even.
  public var headDimension: Int
  /// Positions that the model was trained for.
  public var contextLength: Int
  /// Number of tokens.
  public var vocabulary: Int
  /// Base θ of the rotary embedding's angles: pair i turns by position · θ^(−2i / headDimension).
  public var ropeTheta: Double
  /// Added to the mean square in RMSNorm.
  public var rmsEpsilon: Float
  /// What the model calls itself, else its folder's or file's name.
  public var name: String

  /// A shape; whoever reads one from a file checks it with `fault`.
  public init(
    blocks: Int, dModel: Int, feedForward: Int, heads: Int, keyValueHeads: Int, headDimension: Int,
    contextLength: Int, vocabulary: Int, ropeTheta: Double, rmsEpsilon: Float, name: String
  ) {
    self.blocks = blocks
    self.dModel = dModel
    self.feedForward = feedForward
    self.heads = heads
    self.keyValueHeads = keyValueHeads
    self.headDimension = headDimension
    self.contextLength = contextLength
    self.vocabulary = vocabulary
    self.ropeTheta = ropeTheta
    self.rmsEpsilon = rmsEpsilon
    self.name = name
  }

  /// Largest count that a configuration may hold in any place: far beyond any model, and small
  /// enough that no product of two overflows.
  package static let countMax = 1 << 30

  /// Why no model can have this shape, or nil if one can.
  package var fault: String? {
    for (count, what) in [
      (blocks, "number of blocks"), (dModel, "width"), (feedForward, "feed-forward width"),
      (heads, "number of heads"), (keyValueHeads, "number of key/value heads"),
      (headDimension, "width of a head"), (contextLength, "context length"),
      (vocabulary, "vocabulary size"),
    ] where !(1...Self.countMax).contains(count) {
      return "the \(what) is \(count), it must be in 1 … \(Self.countMax)"
    }
    if heads % keyValueHeads != 0 {
      return "\(heads) heads cannot share \(keyValueHeads) key/value heads evenly"
    }
    if headDimension % 2 != 0 { return "the width of a head, \(headDimension), is odd" }
    if !(ropeTheta > 0 && ropeTheta.isFinite) { return "RoPE's base is \(ropeTheta)" }
    if !(rmsEpsilon >= 0 && rmsEpsilon.isFinite) { return "RMSNorm's epsilon is \(rmsEpsilon)" }
    return nil
  }
}
