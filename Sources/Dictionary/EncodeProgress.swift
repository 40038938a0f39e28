/// What one granularity leaves for the next, larger one: for tokens that are encoded at several,
/// ascending, in one pass over the encoder.
///
/// After a granularity, each token keeps the latents that may yet be active at a larger one, with
/// what bounds their pre-activations; the next begins with these, at the panel where the last ended.
/// The answers are those of encoding at each granularity alone.
public final class EncodeProgress: @unchecked Sendable {
  // Unchecked: whoever encodes a range of tokens is alone with it.

  /// One token's.
  struct Token {
    /// Panels of latents that have been screened.
    var panels = 0
    /// Latents whose bound is less have been dropped.
    var threshold: Float = 0
    /// Of the latents that were not: [latents]
    var latents: [UInt32] = []
    var bounds: [Float] = []
  }

  /// Number of tokens.
  public let tokens: Int
  /// The most active latents that a token is wanted with at any granularity; 0 where the selection
  /// rule has no k.
  public let kMax: Int
  private let storage: UnsafeMutablePointer<Token>

  /// Nothing is known yet.
  public init(tokens: Int, kMax: Int) {
    self.tokens = tokens
    self.kMax = kMax
    storage = .allocate(capacity: tokens)
    storage.initialize(repeating: Token(), count: tokens)
  }

  deinit {
    storage.deinitialize(count: tokens)
    storage.deallocate()
  }

  /// Latents that a token may keep; one that would keep more starts anew.
  private static func latentsMax(k: Int) -> Int { 8 * k + 256 }

  /// Bytes that a token may take, of a selection of k, 0 where the rule has none.
  public static func bytesMax(k: Int) -> Int {
    MemoryLayout<Token>.stride
      + latentsMax(k: k) * (MemoryLayout<UInt32>.size + MemoryLayout<Float>.size) + 128
  }

  func token(_ number: Int) -> UnsafeMutablePointer<Token> {
    precondition((0..<tokens).contains(number))
    return storage + number
  }

  /// Keeps `latents`, which ascend, with their bounds, as far as whole panels have been screened.
  static func keep(
    _ token: UnsafeMutablePointer<Token>, panels: Int, threshold: Float, kMax: Int,
    latents: UnsafeBufferPointer<UInt32>, bounds: UnsafePointer<Float>
  ) {
    let end = UInt32(panels * QuantizedEncoder.panelLatents)
    let count = (latents.lastIndex { $0 < end } ?? -1) + 1
    guard count <= latentsMax(k: kMax) else {
      token.pointee = Token()
      return
    }
    token.pointee.panels = panels
    token.pointee.threshold = threshold
    token.pointee.latents = Array(latents[..<count])
    token.pointee.bounds = Array(UnsafeBufferPointer(start: bounds, count: count))
  }
}
