internal import CGranuleKernels
internal import GranuleTensors

/// One token to encode, and the place of its answer.
struct EncodeRow {
  var request: Int
  var token: Int
  var granularity: Int
  /// 0 if all latents that are active and at least `floor` are wanted, not the k largest.
  var k: Int
  /// The largest k of this granularity and of the larger ones to come.
  var kMax: Int
  var floor: Float = 0
  var progress: UnsafeMutablePointer<EncodeProgress.Token>?

  /// The first panel that has not been screened yet.
  var firstPanel: Int { progress?.pointee.panels ?? 0 }
}

/// Tokens that are encoded together on one thread: they begin at the same panel and descend in
/// granularity, so that each panel of latents meets a prefix of them.
struct EncodeBlock {
  let core: EncodingCore
  let scratch: EncodeScratch
  let rows: ArraySlice<EncodeRow>
  /// Room for latents of each token.
  let capacity: Int

  private var count: Int { rows.count }
  private var dModel: Int { core.dModel }
  private var inputs: UnsafeMutablePointer<Float> { scratch.inputs.pointer }
  private var tokens: UnsafeMutablePointer<gk_screened_token> { scratch.tokens.pointer }
  private func row(_ position: Int) -> EncodeRow { rows[rows.startIndex + position] }

  /// Panels write a vector beyond what they keep.
  static let slack = 80

  /// The most bytes of a block's candidate lists.
  private static let listBytesMax = 48 << 20
  /// The most tokens of a block: enough to pay for a pass over the encoder.
  private static let tokensMax = 1024

  /// Room for each token's latents, and tokens a block, on a path.
  static func size(
    _ path: EncodePath, granularity: Int, k: Int, dModel: Int
  ) -> (capacity: Int, tokens: Int) {
    switch path {
    case .screened:
      let capacity = min(granularity, max(4096, 16 * k)) + slack
      return (capacity, max(1, min(tokensMax, listBytesMax / (8 * capacity))))
    case .exact:
      let capacity = granularity + slack
      // Their inputs stay in the second-level cache.
      let cached = max(6, (96 << 10) / dModel / 6 * 6)
      return (capacity, max(1, min(cached, listBytesMax / (8 * capacity))))
    }
  }

  /// A block whose inputs are in the scratch memory, or will be before it is encoded.
  init(
    _ core: EncodingCore, rows: ArraySlice<EncodeRow>, capacity: Int, scratch: EncodeScratch
  ) {
    self.core = core
    self.rows = rows
    self.capacity = capacity
    self.scratch = scratch
    scratch.inputs.reserve(rows.count * core.dModel)
    scratch.tokens.reserve(rows.count)
    scratch.bounds.reserve(rows.count * capacity)
    scratch.latents.reserve(rows.count * capacity)
  }

  typealias Emit = (
    _ position: Int, _ latents: UnsafeBufferPointer<UInt32>, _ values: UnsafeBufferPointer<Float>
  ) -> Void

  /// Hands the latents that are active for each row to `emit`, having scored all.
  func encodeExactly(emit: Emit) {
    scratch.counters.tokens += count
    begin()
    scoreAll()
    keepProgress()
    for position in 0..<count {
      let isExact = finish(position, emit: emit)
      precondition(isExact, "thresholds of scored latents are not guesses")
    }
  }

  /// Hands the same latents to `emit`, having scored only those that the screen left.
  func encodeScreened(squaredNorms: UnsafePointer<Float>, emit: Emit) {
    begin()
    reserveQuantized()
    quantize(0..<count, squaredNorms: squaredNorms, transformed: scratch.transformed)
    resumeProgress()
    screen(
      panels: row(0).firstPanel..<max(panels, row(0).firstPanel),
      quantized: scratch.quantized.pointer)
    keepProgress()
    dropWhatLaterNeeds()
    for start in stride(from: 0, to: count, by: rescoredTokens) {
      rescore(0..<gatherPairs(start..<min(start + rescoredTokens, count)))
    }
    finishScreened(emit: emit)
  }

  /// Empties all lists.
  func begin() {
    for position in 0..<count {
      tokens[position] = gk_screened_token()
      tokens[position].bounds = scratch.bounds.pointer + position * capacity
      tokens[position].latents = scratch.latents.pointer + position * capacity
    }
  }

  // MARK: All in float32

  private func scoreAll() {
    let floors = core.thresholds
    for position in 0..<count { tokens[position].threshold = row(position).floor }
    var active = count
    var schedule = RaiseSchedule(k: row(0).kMax, capacity: capacity)
    let largest = rows.first!.granularity
    var first = 0
    while first < largest {
      // A panel ends with the granularity of some row.
      while row(active - 1).granularity <= first { active -= 1 }
      let end = min(first + QuantizedEncoder.panelLatents, row(active - 1).granularity)
      gk_score_panel(
        core.kernels, core.weights.encoder,
        core.weights.encoderBias, floors, first, end, inputs, dModel, tokens, active)
      if schedule.due(latents: end) == .all {
        for position in 0..<active where row(position).kMax > 0 {
          gk_raise_threshold(
            core.kernels, tokens + position, row(position).kMax, nil, 0, nil)
        }
      }
      first = end
    }
  }

  // MARK: Screened

  /// Bytes of quantised inputs that, with the ends of their tokens' lists, stay in the second-level
  /// cache while panels pass by. With twice this the lists drop out of it.
  private static let quantizedBytesCached = 300 << 10
  /// The threshold of a token that nothing more may be appended to, since it is scored in full.
  private static let abandoned = Float.infinity

  /// Panels of the largest granularity.
  var panels: Int {
    (rows.first!.granularity + QuantizedEncoder.panelLatents - 1) / QuantizedEncoder.panelLatents
  }

  func reserveQuantized() {
    scratch.quantized.reserve(count * core.screening.paddedDModel)
  }

  /// Prepares some rows for the screen.
  func quantize(
    _ positions: Range<Int>, squaredNorms: UnsafePointer<Float>, transformed: Scratch<Float>
  ) {
    let encoder = core.screening
    let padded = encoder.paddedDModel
    let transformed = transformed.reserve(padded)
    for position in positions {
      let isUsable = encoder.quantize(
        inputs + position * dModel, squaredNorm: squaredNorms[position], scratch: transformed,
        quantized: scratch.quantized.pointer + position * padded, token: &tokens[position])
      tokens[position].threshold = isUsable ? row(position).floor : Self.abandoned
    }
  }

  /// Gathers the latents of some panels that may be active.
  ///
  /// - Parameter quantized: [rows, padded d_model], as `quantize` left them.
  func screen(panels: Range<Int>, quantized: UnsafePointer<Int8>) {
    let encoder = core.screening
    let padded = encoder.paddedDModel
    var screen = encoder.screen
    let part = max(6, Self.quantizedBytesCached / padded / 6 * 6)
    for start in stride(from: 0, to: count, by: part) {
      screenPart(
        &screen, encoder.cpu, panels, start..<min(start + part, count), quantized + start * padded)
    }
    for position in 0..<count { raise(position, k: row(position).kMax, &screen, encoder.cpu) }
  }

  private func screenPart(
    _ screen: inout gk_screen, _ cpu: EncoderCPU, _ panels: Range<Int>, _ range: Range<Int>,
    _ quantized: UnsafePointer<Int8>
  ) {
    let panelLatents = QuantizedEncoder.panelLatents
    let kept = range.reduce(0) { max($0, Int(tokens[$1].count)) }
    var schedule = RaiseSchedule(k: row(range.lowerBound).kMax, capacity: capacity - kept)
    let mayOverflow = capacity < rows.first!.granularity + Self.slack
    var active = range.count
    for panel in panels {
      let first = panel * panelLatents
      while active > 0, row(range.lowerBound + active - 1).granularity <= first { active -= 1 }
      guard active > 0 else { break }
      gk_screen_panel(
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
      let due = schedule.due(latents: first + panelLatents - panels.lowerBound * panelLatents)
      guard due != .nothing else { continue }
      var most = 0
      for position in range.lowerBound..<range.lowerBound + active {
        let full = capacity - 2 * Self.slack
        if due == .all || Int(tokens[position].count) > full {
          raise(position, k: row(position).kMax, &screen, cpu)
          if mayOverflow, Int(tokens[position].count) > full - capacity / 8 {
            tokens[position].threshold = Self.abandoned
            tokens[position].count = 0
          }
        }
        most = max(most, Int(tokens[position].count))
      }
      schedule.limit(room: capacity - Self.slack - most)
    }
  }

  private func raise(
    _ position: Int, k: Int, _ screen: inout gk_screen, _ cpu: EncoderCPU
  ) {
    guard k > 0, tokens[position].threshold < Self.abandoned else { return }
    gk_raise_threshold(
      cpu.kernels, tokens + position, k, &screen,
      core.options.guessMargin / Float(dModel).squareRoot(), scratch.estimates.reserve(capacity))
  }

  /// Number of tokens whose inputs stay in the second-level cache while survivors are scored.
  private var rescoredTokens: Int { max(64, (900 << 10) / (4 * dModel)) }

  /// Lists the pairs of token and latent that survived, sorted by latent if there are enough tokens to
  /// share its row; returns their number.
  func gatherPairs(_ positions: Range<Int>) -> Int {
    for position in positions where tokens[position].threshold == Self.abandoned {
      tokens[position].count = 0
    }
    let total = positions.reduce(0) { $0 + Int(tokens[$1].count) }
    scratch.counters.tokens += positions.count
    scratch.counters.screenedTokens += positions.count
    scratch.counters.survivors += total
    let pairs = scratch.pairs.reserve(total)
    if positions.count < 8 {
      var next = 0
      for position in positions {
        let token = tokens[position]
        for i in 0..<Int(token.count) {
          pairs[next] = pair(token, position, i)
          next += 1
        }
      }
    } else {
      let latents = rows.first!.granularity
      let offsets = scratch.pairOffsets.reserve(latents + 1)
      offsets.update(repeating: 0, count: latents + 1)
      for position in positions {
        let token = tokens[position]
        for i in 0..<Int(token.count) { offsets[Int(token.latents[i]) + 1] += 1 }
      }
      for latent in 0..<latents { offsets[latent + 1] += offsets[latent] }
      for position in positions {
        let token = tokens[position]
        for i in 0..<Int(token.count) {
          let latent = Int(token.latents[i])
          pairs[Int(offsets[latent])] = pair(token, position, i)
          offsets[latent] += 1
        }
      }
    }
    return total
  }

  @inline(__always)
  private func pair(_ token: gk_screened_token, _ position: Int, _ i: Int) -> gk_pair {
    gk_pair(
      latent: token.latents[i], token: UInt32(position), slot: UInt32(position * capacity + i))
  }

  /// Scores some of the pairs that were gathered.
  func rescore(_ range: Range<Int>) {
    gk_rescore(
      core.kernels, core.weights.encoder,
      core.weights.encoderBias, inputs, dModel, scratch.pairs.pointer + range.lowerBound,
      range.count, scratch.bounds.pointer)
  }

  func finishScreened(emit: Emit) {
    var failed: [Int] = []
    for position in 0..<count where !finish(position, emit: emit) { failed.append(position) }
    if !failed.isEmpty { encodeAgain(failed, emit: emit) }
  }

  // MARK: Latents split over threads

  /// Starts lists for tokens that a block of the same rows has quantised.
  func begin(like other: EncodeBlock) {
    begin()
    for position in 0..<count {
      let (bounds, latents) = (tokens[position].bounds, tokens[position].latents)
      tokens[position] = other.tokens[position]
      (tokens[position].bounds, tokens[position].latents) = (bounds, latents)
    }
  }

  /// Appends the latents that a block of the same rows found in the panels that follow.
  func append(_ other: EncodeBlock) {
    var screen = core.screening.screen
    for position in 0..<count {
      let more = other.tokens[position]
      let (have, found) = (Int(tokens[position].count), Int(more.count))
      if more.threshold == Self.abandoned || have + found > capacity - Self.slack {
        tokens[position].threshold = Self.abandoned
      }
      guard tokens[position].threshold < Self.abandoned else { continue }
      tokens[position].threshold = max(tokens[position].threshold, more.threshold)
      (tokens[position].bounds + have).update(from: more.bounds, count: found)
      (tokens[position].latents + have).update(from: more.latents, count: found)
      tokens[position].count += more.count
      raise(position, k: row(position).kMax, &screen, core.options.cpu)
    }
  }

  private func encodeAgain(_ failed: [Int], emit: Emit) {
    scratch.counters.fallbacks += failed.count
    // Counted when they were screened.
    scratch.counters.tokens -= failed.count
    let again = failed.map { row($0) }
    let size = Self.size(.exact, granularity: again[0].granularity, k: 0, dModel: dModel)
    // Blocks take their inputs from the front of the scratch.
    let waiting = FloatStorage(count: again.count * dModel)
    for (next, position) in failed.enumerated() {
      (waiting.pointer + next * dModel).update(from: inputs + position * dModel, count: dModel)
    }
    for start in stride(from: 0, to: again.count, by: size.tokens) {
      let end = min(start + size.tokens, again.count)
      let block = EncodeBlock(
        core, rows: again[start..<end], capacity: size.capacity, scratch: scratch)
      inputs.update(from: waiting.pointer + start * dModel, count: (end - start) * dModel)
      block.encodeExactly { emit(failed[start + $0], $1, $2) }
    }
  }

  // MARK: From one granularity to the next

  /// Begins with the latents that a smaller granularity has kept.
  private func resumeProgress() {
    for position in 0..<count {
      guard let progress = row(position).progress?.pointee, progress.panels > 0,
        tokens[position].threshold < Self.abandoned
      else { continue }
      let kept = progress.latents.count
      tokens[position].latents.update(from: progress.latents, count: kept)
      tokens[position].bounds.update(from: progress.bounds, count: kept)
      tokens[position].count = UInt32(kept)
      tokens[position].threshold = max(tokens[position].threshold, progress.threshold)
    }
  }

  /// Keeps for larger granularities the latents that may be active there.
  private func keepProgress() {
    for position in 0..<count {
      let row = row(position)
      guard let progress = row.progress else { continue }
      let token = tokens[position]
      guard token.threshold < Self.abandoned else {
        progress.pointee = EncodeProgress.Token()
        continue
      }
      EncodeProgress.keep(
        progress, panels: row.granularity / QuantizedEncoder.panelLatents,
        threshold: token.threshold, kMax: row.kMax,
        latents: UnsafeBufferPointer(start: token.latents, count: Int(token.count)),
        bounds: token.bounds)
    }
  }

  /// Drops latents that may be active at larger granularities only.
  private func dropWhatLaterNeeds() {
    var screen = core.screening.screen
    for position in 0..<count where row(position).k < row(position).kMax {
      raise(position, k: row(position).k, &screen, core.options.cpu)
    }
  }

  // MARK: Selection

  /// Emits those of a token's scored latents that the selection rule keeps. Emits nothing and returns
  /// false if a latent that was dropped may be active: with `topk`, if the guess is more than the k-th
  /// largest pre-activation.
  private func finish(_ position: Int, emit: Emit) -> Bool {
    let token = tokens[position]
    guard token.threshold < Self.abandoned else { return false }
    let k = row(position).k
    let count: Int
    if k > 0 {
      var kth: Float = 0
      count = gk_keep_largest(token.bounds, token.latents, Int(token.count), k, &kth)
      guard token.threshold <= kth || token.threshold <= 0 else { return false }
    } else {
      count = gk_keep_above(
        token.bounds, token.latents, Int(token.count), core.thresholds)
    }
    emit(
      position, UnsafeBufferPointer(start: token.latents, count: count),
      UnsafeBufferPointer(start: token.bounds, count: count))
    return true
  }
}

/// The schedule of raising thresholds: after 2 k latents, and whenever their number has tripled since;
/// for full lists also in between.
private struct RaiseSchedule {
  enum Due { case nothing, full, all }

  private var next: Int
  private var full: Int
  private var seen = 0

  init(k: Int, capacity: Int) {
    next = max(2 * k, 1)
    full = capacity - EncodeBlock.slack
  }

  mutating func due(latents: Int) -> Due {
    seen = latents
    guard latents >= next else { return latents >= full ? .full : .nothing }
    while next <= latents { next *= 3 }
    return .all
  }

  /// Takes note that lists have room for `room` more latents.
  mutating func limit(room: Int) {
    full = seen + max(room / QuantizedEncoder.panelLatents, 1) * QuantizedEncoder.panelLatents
  }
}
