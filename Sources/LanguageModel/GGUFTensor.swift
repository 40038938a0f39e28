internal import CGranuleKernels
public import GranuleFiles
public import GranuleTensors

/// The element types of GGUF tensors that are read.
public enum GGUFElementType: UInt32, Sendable, CaseIterable {
  case f32 = 0
  case f16 = 1
  case q40 = 2
  case q41 = 3
  case q80 = 8
  case q4K = 12
  case q6K = 14
  case bf16 = 30

  /// The name that the format's documentation uses.
  public var name: String { Self.names[rawValue] ?? "" }

  /// Elements that are stored together; a row holds whole blocks.
  public var blockElements: Int {
    switch self {
    case .f32, .f16, .bf16: 1
    case .q40, .q41, .q80: 32
    case .q4K, .q6K: 256
    }
  }

  /// Bytes a block.
  public var blockBytes: Int {
    switch self {
    case .f32: 4
    case .f16, .bf16: 2
    case .q40: 18
    case .q41: 20
    case .q80: 34
    case .q4K: 144
    case .q6K: 210
    }
  }

  /// Names of all types of the format, also of those that are refused.
  static let names: [UInt32: String] = [
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
  ]
}

/// A tensor of a GGUF file: a view of the file's bytes.
public struct GGUFTensor: Sendable {
  /// The tensor's name, unique within its file.
  public let name: String
  /// How its elements are stored.
  public let type: GGUFElementType
  /// Elements along each dimension, outermost first: a matrix is [out, in]. (The file itself states
  /// them the other way round.)
  public let shape: [Int]
  /// Number of elements.
  public let count: Int
  let file: FileBytes
  let byteRange: Range<Int>

  /// The stored bytes, valid while the file's object lives.
  public var bytes: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: file.bytes[byteRange])
  }

  /// All elements as float32, row-major. Only Q4_1 and Q4_K round, once an element: what the
  /// other formats express is a float32.
  public func float32() -> FloatStorage {
    let result = FloatStorage(count: count)
    guard count > 0, let start = bytes.baseAddress else { return result }
    let to = result.pointer
    switch type {
    case .f32: UnsafeMutableRawPointer(to).copyMemory(from: start, byteCount: byteRange.count)
    case .f16: gk_float32_from_float16(start, to, count)
    case .bf16: gk_float32_from_bfloat16(start, to, count)
    case .q40: gk_float32_from_q4_0(start, to, count / 32)
    case .q41: gk_float32_from_q4_1(start, to, count / 32)
    case .q80: gk_float32_from_q8_0(start, to, count / 32)
    case .q4K: gk_float32_from_q4_k(start, to, count / 256)
    case .q6K: gk_float32_from_q6_k(start, to, count / 256)
    }
    return result
  }

  /// An error that names this tensor and its file.
  public func fault(_ fault: String) -> FileError {
    FileError(file: file.path, tensor: name, fault: fault)
  }
}
