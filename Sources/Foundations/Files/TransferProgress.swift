/// How far the reading or writing of tensors has come, and whether to go on; for the thread that
/// does it.
public final class TransferProgress {
  private let total: Int
  private var done = 0
  private let onProgress: (Double) -> Void
  private let shouldStop: () -> Bool

  /// - Parameters:
  ///   - total: bytes that will be read or written.
  ///   - onProgress: told the share done, 0 … 1, after each piece of some MiB.
  ///   - shouldStop: asked after each piece; true ends the transfer with an error.
  public init(
    total: Int, onProgress: @escaping (Double) -> Void = { _ in },
    shouldStop: @escaping () -> Bool = { false }
  ) {
    self.total = total
    self.onProgress = onProgress
    self.shouldStop = shouldStop
  }

  /// - Throws: `FileError` that names `file` where the transfer is to stop.
  package func advance(_ byteCount: Int, of file: String) throws(FileError) {
    done += byteCount
    onProgress(total > 0 ? min(1, Double(done) / Double(total)) : 1)
    guard !shouldStop() else {
      throw FileError(file: file, kind: .interrupted, fault: "was interrupted")
    }
  }
}
