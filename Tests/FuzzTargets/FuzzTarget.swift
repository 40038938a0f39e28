internal import GranuleTensors

/// Something that reads bytes from outside, and what must hold whatever they are: it accepts them or
/// throws an error of its own type, and keeps the promises that the target checks.
///
/// The fuzzer (`scripts/fuzz`) and the replay of the corpora call the same function.
public struct FuzzTarget: Sendable {
  /// The name, which is that of its folder of the corpora.
  public let name: String
  /// Inputs that fuzzing starts from, and what the reader must say to each.
  public let seeds: @Sendable () throws -> [Seed]
  /// Reads the bytes, and tells whether the reader accepts them; throws `Finding` if a promise is
  /// broken, any other error if the target itself is at fault.
  public let run: @Sendable (UnsafeRawBufferPointer) throws -> Verdict

  /// All targets.
  public static let all: [FuzzTarget] = [
    .frames, .request, .response, .json, .safetensors, .npy, .activations, .dictionary,
    .repository, .run, .harvest, .gguf, .huggingFace, .npz, .torch, .pickle, .sparsify,
  ]
}

/// What a reader says to an input.
public enum Verdict: Sendable {
  /// The input is read whole, and used.
  case accepted
  /// The file is sound, but does not hold what the target looks for in it.
  case containerAccepted
  /// The input is refused with an error of the reader's type.
  case refused
}

/// An input that fuzzing starts from.
public struct Seed: Sendable {
  /// The input.
  public let bytes: [UInt8]
  /// What the reader must say to it; nil if that is another test's subject.
  public let verdict: Verdict?

  /// An input that must be accepted, unless another verdict is given.
  init(_ bytes: [UInt8], _ verdict: Verdict? = .accepted) {
    self.bytes = bytes
    self.verdict = verdict
  }
}

/// A promise that an input broke.
public struct Finding: Error, CustomStringConvertible {
  /// What should have held.
  public let description: String
}

/// Throws a finding unless `condition` holds.
func require(_ condition: Bool, _ promise: @autoclosure () -> String) throws(Finding) {
  if !condition { throw Finding(description: promise()) }
}

/// Between the files of an input that holds several: lines that JSON and safetensors never contain
/// by themselves, so that files keep their places when bytes before them come and go.
let fileSeparator = Array("\n=====\n".utf8)

/// The files of an input: as many as `count`; those that are missing are empty.
func files(_ bytes: UnsafeRawBufferPointer, count: Int) -> [UnsafeRawBufferPointer] {
  var files: [UnsafeRawBufferPointer] = []
  var start = 0
  var at = 0
  while files.count < count - 1, at + fileSeparator.count <= bytes.count {
    if bytes[at..<at + fileSeparator.count].elementsEqual(fileSeparator) {
      files.append(UnsafeRawBufferPointer(rebasing: bytes[start..<at]))
      start = at + fileSeparator.count
      at = start
    } else {
      at += 1
    }
  }
  files.append(UnsafeRawBufferPointer(rebasing: bytes[start...]))
  while files.count < count { files.append(UnsafeRawBufferPointer(start: nil, count: 0)) }
  return files
}

/// One input of several files.
func joined(_ files: [[UInt8]]) -> [UInt8] { Array(files.joined(separator: fileSeparator)) }

/// Uses every element of a tensor in each way that its readers do.
func readAll(_ tensor: Tensor) throws(Finding) {
  if let values = try? tensor.float32() {
    try require(values.count == tensor.count, "\(tensor.shape) has \(values.count) elements")
  }
  if let values = try? tensor.integers() {
    try require(values.count == tensor.count, "\(tensor.shape) has \(values.count) elements")
  }
}
