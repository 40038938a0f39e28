/// State that one granularity leaves for the next, larger one, when tokens are encoded at several
/// ascending granularities in one pass over the encoder.
///
/// After a granularity, each token keeps the latents that may yet be active at a larger one, with
/// bounds of their pre-activations. The next granularity begins with these latents, at the panel at
/// which the last one ended. The codes equal those of encoding at each granularity alone.
public final class EncodeProgress: @unchecked Sendable {
  // Unchecked: only one call at a time encodes a range of tokens.

  /// One token's state.
  struct Token {
    /// Number of panels of latents that have been screened.
    var panels = 0
    /// Latents whose bound is less have been dropped.
    var threshold: Float = 0
    /// The latents that were not dropped, with their bounds: [latents]
    var latents: [UInt32] = []
    var bounds: [Float] = []
  }

  /// Number of tokens.
  public let tokens: Int
  /// The largest k of any granularity; 0 if the selection rule has no k.
  public let kMax: Int
  private let storage: UnsafeMutablePointer<Token>

  /// State of tokens that have not been encoded yet.
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

  /// The most latents that a token keeps; a token that would keep more starts anew.
  private static func latentsMax(k: Int) -> Int { 8 * k + 256 }

  /// The most bytes that a token takes.
  ///
  /// - Parameter k: the largest k of any granularity; 0 if the rule has no k.
  public static func bytesMax(k: Int) -> Int {
    MemoryLayout<Token>.stride
      + latentsMax(k: k) * (MemoryLayout<UInt32>.size + MemoryLayout<Float>.size) + 128
  }

  func token(_ number: Int) -> UnsafeMutablePointer<Token> {
    precondition((0..<tokens).contains(number))
    return storage + number
  }

  /// Keeps the ascending `latents` of the panels that were screened whole, with their bounds.
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
