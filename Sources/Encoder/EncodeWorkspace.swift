internal import CGranuleKernels
internal import Glibc

/// Scratch memory of a caller that encodes: reused from call to call, grown when needed. One call at a
/// time may use it.
public final class EncodeWorkspace {
  /// What encoding with this workspace has taken so far.
  public struct Counters: Sendable, Equatable {
    /// Number of tokens encoded.
    public var tokens = 0
    /// Number of those tokens whose latents were screened in 8 bits.
    public var screenedTokens = 0
    /// Number of latents of screened tokens that were scored exactly.
    public var survivors = 0
    /// Number of screened tokens that had to be scored in full, because the guess was too bold or too
    /// many latents survived.
    public var fallbacks = 0

    mutating func add(_ other: Counters) {
      tokens += other.tokens
      screenedTokens += other.screenedTokens
      survivors += other.survivors
      fallbacks += other.fallbacks
    }

    func since(_ before: Counters) -> Counters {
      Counters(
        tokens: tokens - before.tokens, screenedTokens: screenedTokens - before.screenedTokens,
        survivors: survivors - before.survivors, fallbacks: fallbacks - before.fallbacks)
    }
  }

  /// One thread's memory each.
  let scratch: [EncodeScratch]

  /// Empty memory.
  ///
  /// - Parameter threads: number of threads that share a call's work, the calling one included.
  public init(threads: Int = 1) {
    scratch = (0..<max(1, threads)).map { _ in EncodeScratch() }
  }

  /// What has been done so far.
  public var counters: Counters { scratch.reduce(into: Counters()) { $0.add($1.counters) } }
}

/// One thread's scratch memory.
final class EncodeScratch {
  var counters = EncodeWorkspace.Counters()

  let inputs = Scratch<Float>()  // [block, d_model], normalised and centred
  let quantized = Scratch<Int8>()  // [block, padded d_model]
  let transformed = Scratch<Float>()
  let tokens = Scratch<gk_screened_token>()  // [block]
  let bounds = Scratch<Float>()  // [block, capacity]
  let latents = Scratch<UInt32>()  // [block, capacity]
  let estimates = Scratch<Float>()  // [capacity]
  let pairs = Scratch<gk_pair>()
  let pairOffsets = Scratch<UInt32>()  // [latents + 1]
}

/// Uninitialised memory that grows and is never read before it is written.
final class Scratch<Element> {
  private(set) var pointer: UnsafeMutablePointer<Element>
  private var capacity = 0

  init() { pointer = .allocate(capacity: 0) }

  deinit { pointer.deallocate() }

  /// Makes room for `count` elements; what was there is lost when it grows.
  @discardableResult
  func reserve(_ count: Int) -> UnsafeMutablePointer<Element> {
    guard count > capacity else { return pointer }
    pointer.deallocate()
    // Huge pages for large blocks: lists of many tokens are appended to in turn.
    let byteCount = count * MemoryLayout<Element>.stride
    let isLarge = byteCount >= 4 << 20
    let raw = UnsafeMutableRawPointer.allocate(
      byteCount: byteCount, alignment: isLarge ? 2 << 20 : 64)
    if isLarge { madvise(raw, byteCount, MADV_HUGEPAGE) }
    pointer = raw.bindMemory(to: Element.self, capacity: count)
    capacity = count
    return pointer
  }
}
