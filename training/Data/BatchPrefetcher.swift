internal import Dispatch
internal import GranuleTensors
internal import GranuleThreads

/// Reads batches ahead on a thread of its own, so that a step does not wait for the disk.
package final class BatchPrefetcher: BatchReader {
  /// Batches that are read ahead.
  private static let ahead = 2
  /// Batches in memory.
  package static let batches = ahead + 1

  /// What the reading thread fills.
  private final class Slot: @unchecked Sendable {
    // Unchecked: the reading thread fills `activations` before it gives `indices`; the trainer uses them
    // after it has taken `indices`, until it asks for the slot to be filled again.

    let activations: FloatStorage
    /// Indices of the tokens read; nil until the slot is filled.
    let indices = Monitor<[Int]?>(nil)

    init(count: Int) { activations = FloatStorage(count: count) }
  }

  private final class Reader: @unchecked Sendable {
    // Unchecked: used on the serial queue only.

    var sampler: BatchSampler

    init(_ sampler: BatchSampler) { self.sampler = sampler }
  }

  private let dataset: ActivationDataset
  /// Indices of the last batch's tokens.
  private var last: [Int] = []
  private let queue = DispatchQueue(label: "granule.batches", qos: .userInitiated)
  private let reader: Reader
  private let slots: [Slot]
  private var step: Int
  private let steps: Int

  /// Begins to read the batches of the steps `step` ..< `steps`.
  package init(_ sampler: BatchSampler, batchTokens: Int, step: Int, steps: Int) {
    dataset = sampler.dataset
    reader = Reader(sampler)
    slots = (0..<Self.batches).map { _ in
      Slot(count: batchTokens * sampler.dataset.dModel)
    }
    self.step = step
    self.steps = steps
    for number in step..<step + Self.ahead { read(number) }
  }

  /// The next step's batch; nil after the last.
  package func next() -> ActivationBatch? {
    guard step < steps else { return nil }
    let slot = slots[step % slots.count]
    let clock = ContinuousClock()
    let start = clock.now
    let indices = slot.indices.wait { filled -> [Int]? in
      defer { filled = nil }
      return filled
    }
    let waited = (clock.now - start) / .seconds(1)
    // The slot of the step before, which is done.
    read(step + Self.ahead)
    step += 1
    last = indices
    return ActivationBatch(activations: slot.activations, indices: indices, secondsWaited: waited)
  }

  /// File and row of a token of the last batch.
  package func describe(row: Int) -> String { dataset.describe(token: last[row]) }

  private func read(_ step: Int) {
    guard step < steps else { return }
    let (slot, reader) = (slots[step % slots.count], reader)
    queue.async {
      let indices = reader.sampler.read(step: step, into: slot.activations)
      slot.indices.change { $0 = indices }
    }
  }
}
