internal import CKernels
internal import Tensors

/// One token to encode, and where its answer belongs.
struct EncodeRow {
  var request: Int
  var token: Int
  var granularity: Int
  var k: Int
}

/// Tokens that are encoded together on one thread: their rows descend in granularity, so that each
/// panel of latents meets a prefix of them.
struct EncodeBlock {
  let dictionary: SparseAutoencoder
  let workspace: EncodeWorkspace
  let rows: ArraySlice<EncodeRow>
  /// Room for latents of each token.
  let capacity: Int

  private var count: Int { rows.count }
  private var dModel: Int { dictionary.dModel }
  private var inputs: UnsafeMutablePointer<Float> { workspace.inputs.pointer }
  private var tokens: UnsafeMutablePointer<granule_screened_token> { workspace.tokens.pointer }
  private func row(_ position: Int) -> EncodeRow { rows[rows.startIndex + position] }

  /// Panels write a vector beyond what they keep.
  static let slack = 80

  /// Bytes of candidate lists of a block at most.
  private static let listBytesMax = 32 << 20
  /// Tokens of a block: enough to pay for a pass over the encoder.
  private static let tokensMax = 1024

  /// Room for each token's latents, and tokens a block, on a path.
  static func size(
    _ path: EncodePath, granularity: Int, k: Int, dModel: Int
  ) -> (capacity: Int, tokens: Int) {
    switch path {
    case .screened:
      let capacity = min(granularity, max(2048, 16 * k)) + slack
      return (capacity, max(1, min(tokensMax, listBytesMax / (8 * capacity))))
    case .exact:
      let capacity = granularity + slack
      // Their inputs stay in the second-level cache.
      let cached = max(6, (96 << 10) / dModel / 6 * 6)
      return (capacity, max(1, min(cached, listBytesMax / (8 * capacity))))
    }
  }

  /// A block whose inputs are in the workspace, or will be before it is encoded.
  init(
    _ dictionary: SparseAutoencoder, rows: ArraySlice<EncodeRow>, capacity: Int,
    workspace: EncodeWorkspace
  ) {
    self.dictionary = dictionary
    self.rows = rows
    self.capacity = capacity
    self.workspace = workspace
    workspace.inputs.reserve(rows.count * dictionary.dModel)
    workspace.tokens.reserve(rows.count)
    workspace.bounds.reserve(rows.count * capacity)
    workspace.latents.reserve(rows.count * capacity)
  }

  /// The latents that are active for each row, in order: exact, whatever the path.
  func encode(
    _ path: EncodePath, squaredNorms: UnsafePointer<Float>,
    emit: (
      _ position: Int, _ latents: UnsafeBufferPointer<UInt32>,
      _ values: UnsafeBufferPointer<Float>
    ) -> Void
  ) {
    workspace.counters.tokens += count
    for position in 0..<count {
      tokens[position] = granule_screened_token()
      tokens[position].bounds = workspace.bounds.pointer + position * capacity
      tokens[position].latents = workspace.latents.pointer + position * capacity
    }
    switch path {
    case .exact:
      scoreAll()
      for position in 0..<count { finish(position, emit: emit) }
    case .screened:
      let encoder = dictionary.quantizedEncoder
      screen(encoder, squaredNorms: squaredNorms)
      rescore()
      var failed: [Int] = []
      for position in 0..<count {
        if isProven(position) {
          finish(position, emit: emit)
        } else {
          failed.append(position)
        }
      }
      if !failed.isEmpty { encodeAgain(failed, emit: emit) }
    }
  }

  // MARK: All in float32

  private func scoreAll() {
    let floors = dictionary.effectiveThresholds?.pointer
    for position in 0..<count { tokens[position].threshold = 0 }
    var active = count
    var schedule = RaiseSchedule(k: topK(0), capacity: capacity)
    let largest = rows.first!.granularity
    var first = 0
    while first < largest {
      // A panel ends where the granularity of some row does.
      while row(active - 1).granularity <= first { active -= 1 }
      let end = min(first + QuantizedEncoder.panelLatents, row(active - 1).granularity)
      granule_score_panel(
        dictionary.encoderCPU.kernels, dictionary.encoderWeights.pointer,
        dictionary.encoderBias.pointer, floors, first, end, inputs, dModel, tokens, active)
      if schedule.isDue(latents: end) {
        for position in 0..<active where topK(position) > 0 {
          granule_raise_threshold(
            dictionary.encoderCPU.kernels, tokens + position, topK(position), nil, 0)
        }
      }
      first = end
    }
  }

  // MARK: Screened

  /// Tokens whose quantised inputs stay in the second-level cache while panels pass by.
  private static let quantizedBytesCached = 600 << 10
  /// The threshold of a token that nothing more may be appended to, since it is scored in full.
  private static let abandoned = Float.infinity

  private func screen(_ encoder: QuantizedEncoder, squaredNorms: UnsafePointer<Float>) {
    let padded = encoder.paddedDModel
    let quantized = workspace.quantized.reserve(count * padded)
    let scratch = workspace.transformed.reserve(encoder.scratchCount)
    for position in 0..<count {
      let isUsable = encoder.quantize(
        inputs + position * dModel, squaredNorm: squaredNorms[position], scratch: scratch,
        quantized: quantized + position * padded, token: &tokens[position])
      tokens[position].threshold = isUsable ? 0 : Self.abandoned
    }
    var screen = encoder.screen
    let part = max(6, Self.quantizedBytesCached / padded / 6 * 6)
    for start in stride(from: 0, to: count, by: part) {
      let end = min(start + part, count)
      screenPart(&screen, encoder.cpu, start..<end, quantized + start * padded)
    }
    for position in 0..<count where tokens[position].threshold < Self.abandoned {
      if topK(position) > 0 { raise(position, &screen, encoder.cpu) }
      workspace.counters.survivors += Int(tokens[position].count)
    }
    workspace.counters.screenedTokens += count
  }

  private func screenPart(
    _ screen: inout granule_screen, _ cpu: EncoderCPU, _ range: Range<Int>,
    _ quantized: UnsafePointer<Int8>
  ) {
    let panelLatents = QuantizedEncoder.panelLatents
    var schedule = RaiseSchedule(k: topK(range.lowerBound), capacity: capacity)
    var active = range.count
    let largest = row(range.lowerBound).granularity
    for panel in 0..<(largest + panelLatents - 1) / panelLatents {
      let first = panel * panelLatents
      while row(range.lowerBound + active - 1).granularity <= first { active -= 1 }
      granule_screen_panel(
        cpu.kernels, &screen, panel, quantized, tokens + range.lowerBound, active)
      // Rows whose granularity ends within the panel.
      var position = range.lowerBound + active - 1
      while position >= range.lowerBound, row(position).granularity < first + panelLatents {
        let token = tokens + position
        let granularity = UInt32(row(position).granularity)
        while token.pointee.count > 0,
          token.pointee.latents[Int(token.pointee.count) - 1] >= granularity
        { token.pointee.count -= 1 }
        position -= 1
      }
      guard schedule.isDue(latents: first + panelLatents) else { continue }
      var most = 0
      for position in range.lowerBound..<range.lowerBound + active {
        if topK(position) > 0 { raise(position, &screen, cpu) }
        if Int(tokens[position].count) > capacity - 2 * Self.slack {
          tokens[position].threshold = Self.abandoned
          tokens[position].count = 0
        }
        most = max(most, Int(tokens[position].count))
      }
      schedule.limit(room: capacity - Self.slack - most)
    }
  }

  private func raise(_ position: Int, _ screen: inout granule_screen, _ cpu: EncoderCPU) {
    guard tokens[position].threshold < Self.abandoned else { return }
    granule_raise_threshold(
      cpu.kernels, tokens + position, topK(position), &screen,
      workspace.guessMargin / Float(dModel).squareRoot())
  }

  /// Scores what survived, a latent at a time where there are tokens enough to share its row.
  private func rescore() {
    let total = (0..<count).reduce(0) { $0 + Int(tokens[$1].count) }
    let pairs = workspace.pairs.reserve(total)
    func forEachPair(_ body: (granule_pair) -> Void) {
      for position in 0..<count {
        let token = tokens[position]
        for i in 0..<Int(token.count) {
          body(
            granule_pair(
              latent: token.latents[i], token: UInt32(position),
              slot: UInt32(position * capacity + i)))
        }
      }
    }
    if count < 32 {
      var next = 0
      forEachPair {
        pairs[next] = $0
        next += 1
      }
    } else {
      let latents = rows.first!.granularity
      let offsets = workspace.pairOffsets.reserve(latents + 1)
      offsets.update(repeating: 0, count: latents + 1)
      forEachPair { offsets[Int($0.latent) + 1] += 1 }
      for latent in 0..<latents { offsets[latent + 1] += offsets[latent] }
      forEachPair {
        pairs[Int(offsets[Int($0.latent)])] = $0
        offsets[Int($0.latent)] += 1
      }
    }
    granule_rescore(
      dictionary.encoderCPU.kernels, dictionary.encoderWeights.pointer,
      dictionary.encoderBias.pointer, inputs, dModel, pairs, total, workspace.bounds.pointer)
  }

  /// Whether no latent that was dropped can be active: with `topk`, whether what was guessed is no
  /// more than the k-th largest pre-activation.
  private func isProven(_ position: Int) -> Bool {
    let token = tokens[position]
    guard token.threshold < Self.abandoned else { return false }
    guard topK(position) > 0, token.threshold > 0 else { return true }
    return granule_kth_largest_positive(token.bounds, Int(token.count), topK(position))
      >= token.threshold
  }

  private func encodeAgain(
    _ failed: [Int],
    emit: (Int, UnsafeBufferPointer<UInt32>, UnsafeBufferPointer<Float>) -> Void
  ) {
    workspace.counters.fallbacks += failed.count
    workspace.counters.tokens -= failed.count
    // The rows move together at the front; the lists are not needed any more.
    for (next, position) in failed.enumerated() where next != position {
      (inputs + next * dModel).update(from: inputs + position * dModel, count: dModel)
    }
    let again = failed.map { row($0) }
    let largest = again.map(\.granularity).max()!
    let size = Self.size(.exact, granularity: largest, k: 0, dModel: dModel)
    let kept = UnsafeMutablePointer<Float>.allocate(capacity: again.count * dModel)
    defer { kept.deallocate() }
    kept.update(from: inputs, count: again.count * dModel)
    for start in stride(from: 0, to: again.count, by: size.tokens) {
      let end = min(start + size.tokens, again.count)
      let block = EncodeBlock(
        dictionary, rows: again[start..<end], capacity: size.capacity, workspace: workspace)
      workspace.inputs.pointer.update(
        from: kept + start * dModel, count: (end - start) * dModel)
      block.encode(.exact, squaredNorms: kept) { emit(failed[start + $0], $1, $2) }
    }
  }

  // MARK: Selection

  /// 0 where the selection rule has no k.
  private func topK(_ position: Int) -> Int { row(position).k }

  private func finish(
    _ position: Int,
    emit: (Int, UnsafeBufferPointer<UInt32>, UnsafeBufferPointer<Float>) -> Void
  ) {
    let token = tokens[position]
    let count =
      topK(position) > 0
      ? granule_keep_largest(token.bounds, token.latents, Int(token.count), topK(position))
      : granule_keep_above(
        token.bounds, token.latents, Int(token.count), dictionary.effectiveThresholds?.pointer)
    emit(
      position, UnsafeBufferPointer(start: token.latents, count: count),
      UnsafeBufferPointer(start: token.bounds, count: count))
  }
}

/// When thresholds are raised: after 2 k latents, and whenever their number has doubled since; and
/// before lists are full.
private struct RaiseSchedule {
  private var next: Int
  private var forced: Int

  init(k: Int, capacity: Int) {
    next = max(2 * k, 1)
    forced = capacity - EncodeBlock.slack
  }

  mutating func isDue(latents: Int) -> Bool {
    guard latents >= min(next, forced) else { return false }
    while next <= latents { next *= 2 }
    seen = latents
    forced = Int.max
    return true
  }

  private var seen = 0

  /// Lists have room for so many more latents.
  mutating func limit(room: Int) {
    forced = seen + max(room / QuantizedEncoder.panelLatents, 1) * QuantizedEncoder.panelLatents
  }
}
