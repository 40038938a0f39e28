public import GranuleErrors
internal import GranuleStatistics
public import GranuleTensors
internal import GranuleThreads

/// Activations that a program pushes, as a source of batches: bounded, in memory, each row trained on
/// once.
///
/// Rows gather in windows. While a run trains on one window, in an order drawn from its seed, the next
/// ones fill. Statistics are those of the first window, so a run waits for it. Blocks of consecutive
/// rows are held out from training by a hash of their number. Rows may be pushed from any thread
/// while a run trains on another; what a resumed run trains on are the rows pushed from then on.
public final class PushedActivations: ActivationSource {
  /// What `push` does if the windows are full.
  public enum WhenFull: Sendable {
    /// It waits until there is room or the run takes no more.
    case waits
    /// It takes nothing and answers `full`.
    case refuses
  }

  /// What became of pushed rows.
  public enum Answer: Sendable {
    /// They were taken.
    case taken
    /// They were not taken, because the windows are full.
    case full
    /// They were not all taken, because the run takes no more: stop pushing.
    case finished
  }

  /// Consecutive rows that are held out or trained on together.
  static let blockRows = ActivationDataset.blockRows

  /// Rows in the order in which they were pushed.
  struct Window: Sendable {
    /// [rows, d_model], raw.
    var values: [Float] = []
    /// The number of each row among all that were pushed.
    var numbers: [Int] = []
  }

  struct State: Sendable {
    var filling = Window()
    /// Full, or the last one; waits for the run.
    var waiting: Window?
    var heldOut = Window()
    /// Rows pushed so far, held out or not.
    var pushed = 0
    var hasEnded = false
    var abortion: String?
    var isFinished = false
    var statistics: ActivationStatistics?
    /// What statistics and first thresholds are measured on; forgotten once the run has taken it.
    var first: Window?
    /// What the run took last.
    var last: Window?
  }

  /// Length of an activation.
  public let dModel: Int
  /// What the program said of where its activations come from.
  public let origin: ActivationDataset.Origin?
  private let windowRows: Int
  private let whenFull: WhenFull
  private let heldOutRows: Int
  private let heldOutEvery: Int
  private let state = Monitor(State())

  /// An empty stream.
  ///
  /// - Parameters:
  ///   - windowRows: number of rows that are shuffled among themselves; three windows of
  ///     windowRows · d_model float32 are in memory.
  ///   - whenFull: what `push` does if a window is full while the run trains on the one before.
  ///   - heldOutEvery: one block of 512 rows in this many is held out, 0: none.
  ///   - heldOutRows: rows that are held out at most; they stay in memory.
  ///   - origin: provenance, written into the dictionary.
  /// - Throws: `TrainingError` naming the parameter that is out of bounds.
  public init(
    dModel: Int, windowRows: Int = 65_536, whenFull: WhenFull = .waits, heldOutEvery: Int = 10,
    heldOutRows: Int = 100_000, origin: ActivationDataset.Origin? = nil
  ) throws(TrainingError) {
    for (name, value, limit) in [
      ("d_model", dModel, 1...1 << 20), ("window rows", windowRows, 1...1 << 24),
      ("held out every", heldOutEvery, 0...1 << 24), ("held-out rows", heldOutRows, 0...1 << 24),
    ] {
      try TrainingError.require(
        limit.contains(value), name, value, "in \(limit.lowerBound) … \(limit.upperBound)")
    }
    self.dModel = dModel
    self.windowRows = windowRows
    self.whenFull = whenFull
    self.heldOutEvery = heldOutEvery
    self.heldOutRows = heldOutRows
    self.origin = origin
  }

  // MARK: The program's side

  /// Appends rows: [rows, d_model] float32. With `waits` it may wait for the run.
  ///
  /// - Throws: `TrainingError` if the values are not whole rows or not finite, `refuses` could never
  ///   take as many at once, or the stream was ended or aborted before.
  @discardableResult
  public func push(_ values: UnsafeBufferPointer<Float>) throws(TrainingError) -> Answer {
    let rows = values.count / dModel
    try TrainingError.require(
      values.count == rows * dModel, "pushed values", values.count, "whole rows of \(dModel)")
    if whenFull == .refuses {
      try TrainingError.require(rows <= windowRows, "pushed rows", rows, "at most \(windowRows)")
    }
    if let bad = values.firstIndex(where: { !$0.isFinite }) {
      throw TrainingError(
        .unusable(input: "pushed row \(bad / dModel)"),
        "row \(bad / dModel) of those pushed is not finite in dimension \(bad % dModel)")
    }
    var next = 0
    while next < rows {
      let answer = try append(values, from: &next, rows: rows).get()
      if let answer { return answer }
    }
    return .taken
  }

  /// The same of an array: [rows, d_model].
  @discardableResult
  public func push(_ values: [Float]) throws(TrainingError) -> Answer {
    let result = values.withUnsafeBufferPointer { buffer -> Result<Answer, TrainingError> in
      do throws(TrainingError) { return .success(try push(buffer)) } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }

  /// Says that no more rows come. The run trains on what is there and finishes.
  public func end() { state.change { $0.hasEnded = true } }

  /// Says that the producer failed. The run throws; its last checkpoint stays.
  public func abort(_ reason: String) { state.change { $0.abortion = reason } }

  /// Appends rows until the window is full.
  ///
  /// - Returns: nil if there is more to append.
  private func append(
    _ values: UnsafeBufferPointer<Float>, from next: inout Int, rows: Int
  ) -> Result<Answer?, TrainingError> {
    let (start, mayWait) = (next, whenFull == .waits)
    var taken = start
    let result = state.wait { state -> Result<Answer?, TrainingError>? in
      if state.isFinished { return .success(.finished) }
      if state.hasEnded || state.abortion != nil {
        return .failure(
          TrainingError(.streamClosed, "rows were pushed after the stream was ended or aborted"))
      }
      let room = self.windowRows - state.filling.numbers.count
      if state.waiting != nil, room < (mayWait ? 1 : rows) {
        return mayWait ? nil : .success(.full)
      }
      taken = self.fill(&state, values, rows: start..<rows)
      return .success(taken == rows ? .taken : nil)
    }
    next = taken
    state.change { _ in }
    return result
  }

  /// Moves rows into the windows while there is room; returns the first that was not moved.
  private func fill(
    _ state: inout State, _ values: UnsafeBufferPointer<Float>, rows: Range<Int>
  ) -> Int {
    for row in rows {
      if state.filling.numbers.count == windowRows {
        guard state.waiting == nil else { return row }
        state.handOver()
      }
      let range = row * dModel..<(row + 1) * dModel
      let isHeldOut =
        state.heldOut.numbers.count < heldOutRows && isHeldOut(block: state.pushed / Self.blockRows)
      if isHeldOut {
        state.heldOut.append(values[range], number: state.pushed)
      } else {
        state.filling.append(values[range], number: state.pushed)
      }
      state.pushed += 1
    }
    if state.filling.numbers.count == windowRows, state.waiting == nil { state.handOver() }
    return rows.upperBound
  }

  private func isHeldOut(block: Int) -> Bool {
    guard heldOutEvery > 0 else { return false }
    var generator = Xoshiro(seed: UInt64(block))
    return generator.below(heldOutEvery) == 0
  }

  // MARK: The run's side

  /// Pushed rows come from no file.
  public var files: ActivationFiles { ActivationFiles() }
  /// The window that was taken last; earlier rows are not kept.
  public var training: ActivationDataset? {
    get throws(TrainingError) {
      guard let last = state.read(\.last) else { return nil }
      return try dataset(last)
    }
  }
  /// The rows held out so far.
  public var heldOut: ActivationDataset? {
    get throws(TrainingError) {
      let window = state.read(\.heldOut)
      return window.numbers.isEmpty ? nil : try dataset(window)
    }
  }
  /// Whether the first window is full, or all rows are there.
  public var isReady: Bool {
    state.read { $0.statistics != nil || $0.first != nil || $0.hasEnded || $0.abortion != nil }
  }

  /// Three windows, the rows held out and a batch.
  public func rowsInMemory(batchTokens: Int) -> Int { 3 * windowRows + heldOutRows + batchTokens }

  /// Measured on the first window; waits until it is full or the stream has ended.
  public func statistics() throws(TrainingError) -> ActivationStatistics {
    if let known = state.read(\.statistics) { return known }
    let statistics = try ActivationStatistics(dataset(firstWindow()))
    state.change { $0.statistics = statistics }
    return statistics
  }

  /// Rows at even distances over the first window.
  public func sample(tokens: Int) throws(TrainingError) -> FloatStorage {
    try dataset(firstWindow()).sample(tokens: tokens)
  }

  private func firstWindow() throws(TrainingError) -> Window {
    try state.wait { state -> Result<Window, TrainingError>? in
      state.handOverLast()
      if let failure = state.failure { return .failure(failure) }
      if let first = state.first { return .success(first) }
      return state.hasEnded
        ? .failure(TrainingError(.unusable(input: "stream"), "the stream ended without any rows"))
        : nil
    }.get()
  }

  /// Waits for the next window; nil if the stream has ended.
  func nextWindow() throws(TrainingError) -> Window? {
    let result = state.wait { state -> Result<Window?, TrainingError>? in
      state.handOverLast()
      if let failure = state.failure { return .failure(failure) }
      if let window = state.waiting {
        (state.waiting, state.first, state.last) = (nil, nil, window)
        return .success(window)
      }
      return state.hasEnded ? .success(nil) : nil
    }
    // A push may wait for room.
    state.change { _ in }
    return try result.get()
  }

  /// Batches in the order of windows.
  public func batches(_ order: BatchOrder) -> any BatchReader {
    PushedBatchReader(self, order)
  }

  /// Pushes answer `finished` from now on.
  public func finish() { state.change { $0.isFinished = true } }

  /// Pushed rows leave nothing to compare.
  public func record(run: String) {}

  /// Pushed rows leave nothing to compare.
  public func check(run: String) {}

  private func dataset(_ window: Window) throws(TrainingError) -> ActivationDataset {
    try ActivationDataset(rows: window.values, dModel: dModel, name: "pushed activations")
  }
}

extension PushedActivations.Window {
  fileprivate mutating func append(_ row: Slice<UnsafeBufferPointer<Float>>, number: Int) {
    values += row
    numbers.append(number)
  }
}

extension PushedActivations.State {
  fileprivate var failure: TrainingError? {
    abortion.map { TrainingError(.streamClosed, "the stream of activations was aborted: \($0)") }
  }

  /// Gives the window that was filling to the run.
  fileprivate mutating func handOver() {
    if statistics == nil, first == nil { first = filling }
    waiting = filling
    filling = .init()
  }

  /// Gives the run the last window, which need not be full.
  fileprivate mutating func handOverLast() {
    if hasEnded, waiting == nil, !filling.numbers.isEmpty { handOver() }
  }
}

/// Batches of pushed rows: each window in an order drawn from the run's seed.
private final class PushedBatchReader: BatchReader {
  private let source: PushedActivations
  private let order: BatchOrder
  private let batch: FloatStorage
  private var window = PushedActivations.Window()
  /// The window's rows in the order in which they are trained on, and how many are done.
  private var rows: [Int] = []
  private var done = 0
  private var windows = 0
  private var hasEnded = false
  private var indices: [Int] = []

  init(_ source: PushedActivations, _ order: BatchOrder) {
    self.source = source
    self.order = order
    batch = FloatStorage(count: order.batchTokens * source.dModel)
  }

  func next() throws(TrainingError) -> ActivationBatch? {
    let start = ContinuousClock.now
    var numbers: [Int] = []
    var isFilledUp = false
    while numbers.count < order.batchTokens {
      if done == rows.count, try !takeWindow() {
        // The last batch is filled up with rows of the last window.
        if numbers.isEmpty || rows.isEmpty { return nil }
        done = 0
        isFilledUp = true
      }
      let row = rows[done]
      done += 1
      let (dModel, scale) = (source.dModel, Float(order.scale))
      let output = batch.pointer + numbers.count * dModel
      window.values.withUnsafeBufferPointer { values in
        for i in 0..<dModel { output[i] = values[row * dModel + i] * scale }
      }
      numbers.append(window.numbers[row])
    }
    if isFilledUp { done = rows.count }
    indices = numbers
    return ActivationBatch(
      activations: batch, indices: numbers,
      secondsWaited: (ContinuousClock.now - start) / .seconds(1))
  }

  /// - Returns: false if the stream has ended.
  private func takeWindow() throws(TrainingError) -> Bool {
    guard !hasEnded, let next = try source.nextWindow() else {
      hasEnded = true
      return false
    }
    window = next
    rows = Array(next.numbers.indices)
    done = 0
    var generator = Xoshiro(
      seed: (order.seed &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(order.firstStep))
        &* 0xBF58_476D_1CE4_E5B9 &+ UInt64(windows))
    windows += 1
    rows.shuffle(with: &generator)
    return true
  }

  func describe(row: Int) -> String { "pushed row \(indices[row])" }
}
