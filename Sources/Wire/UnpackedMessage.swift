import CGranuleProto
import Glibc

/// Why a frame's payload is not a message.
public enum UnpackingError: Error, Equatable, CustomStringConvertible {
  /// The bytes are not a protobuf message of the expected type.
  case malformed
  /// Unpacked, the message takes more memory than `limit` bytes.
  case tooMuchMemory(limit: Int)
  /// The system refuses memory for the message.
  case outOfMemory

  /// What was wrong, and the limit.
  public var description: String {
    switch self {
    case .malformed:
      "the frame is not a protobuf message of the expected type: check the client's granule.proto"
    case .tooMuchMemory(let limit):
      "the message takes more than \(limit) bytes of memory when unpacked; send fewer or smaller fields"
    case .outOfMemory: "there is no memory to unpack the message; try again later"
    }
  }
}

/// A message that protobuf-c unpacked, and the memory it lies in.
///
/// protobuf-c turns a few bytes of input into many of memory (each unknown field is kept), and
/// reports a refused allocation just as it reports bad syntax. So it is given an allocator that
/// counts, refuses beyond a limit, and remembers that it did. Nothing is freed before the whole
/// message is: the limit then bounds what was ever asked for, and nothing depends on how protobuf-c
/// tidies up after a failure.
final class UnpackedMessage<Message>: @unchecked Sendable {
  // Safe to share: after the initialiser nobody writes the message or the list of blocks.
  private let arena: UnpackingArena
  let message: UnsafePointer<Message>

  /// Memory that it takes, fields that nobody reads included, in bytes.
  var memoryBytes: Int { arena.bytes }

  typealias Unpack = (
    UnsafeMutablePointer<ProtobufCAllocator>?, Int, UnsafePointer<UInt8>?
  ) -> UnsafeMutablePointer<Message>?

  /// Unpacks `payload` with one of the generated `…__unpack` functions.
  init(_ payload: UnsafeRawBufferPointer, memoryBytesMax: Int, unpack: Unpack)
    throws(UnpackingError)
  {
    arena = UnpackingArena(bytesMax: memoryBytesMax)
    var allocator = arena.allocator
    let bytes = payload.bindMemory(to: UInt8.self)
    guard let message = unpack(&allocator, bytes.count, bytes.baseAddress) else {
      throw arena.failure ?? .malformed
    }
    self.message = UnsafePointer(message)
  }

  /// A `bytes` field, which this message keeps alive.
  func bytes(_ field: ProtobufCBinaryData) -> SharedBytes {
    SharedBytes(UnsafeRawBufferPointer(start: field.data, count: field.len), owner: self)
  }

  /// A `string` field, checked: protobuf-c checks neither the encoding nor for NUL, which ends a
  /// string in C. `absent` is what protobuf-c points to when the field is not there.
  func string(
    _ field: UnsafeMutablePointer<CChar>?, absent: UnsafeMutablePointer<CChar>?, name: String
  ) throws(ServerError) -> String {
    guard let field, field != absent else { return "" }
    // protobuf-c asks for a string's length on the wire plus one for the end.
    let length = UnpackingArena.byteCount(of: field) - 1
    let units = UnsafeRawBufferPointer(start: field, count: length).bindMemory(to: UInt8.self)
    guard !units.contains(0) else {
      throw ServerError(.invalidArgument, "\(name): contains NUL; strings are UTF-8 without NUL")
    }
    guard let text = String(validating: units, as: UTF8.self) else {
      throw ServerError(.invalidArgument, "\(name): is not UTF-8")
    }
    return text
  }

  /// A repeated `uint32` field.
  func array(_ field: UnsafeMutablePointer<UInt32>?, count: Int) -> [UInt32] {
    Array(UnsafeBufferPointer(start: field, count: count))
  }
}

/// Blocks of memory in a list, each behind a header with its size; all are freed together.
private final class UnpackingArena {
  private struct Header {
    var next: UnsafeMutableRawPointer?
    var byteCount: Int
  }
  /// malloc aligns to 16 bytes; a header of that size keeps it so.
  private static let headerBytes = 16
  /// What malloc itself keeps for each block, about.
  private static let overheadBytes = 16

  private var first: UnsafeMutableRawPointer?
  private(set) var bytes = 0
  private let bytesMax: Int
  /// Why memory was refused first.
  private(set) var failure: UnpackingError?

  init(bytesMax: Int) { self.bytesMax = bytesMax }

  deinit {
    var block = first
    while let current = block {
      block = current.assumingMemoryBound(to: Header.self).pointee.next
      free(current)
    }
  }

  /// For protobuf-c, while this object lives.
  var allocator: ProtobufCAllocator {
    ProtobufCAllocator(
      alloc: { context, byteCount in
        guard let context else { return nil }
        return Unmanaged<UnpackingArena>.fromOpaque(context).takeUnretainedValue()
          .allocate(byteCount)
      },
      free: { _, _ in },
      allocator_data: Unmanaged.passUnretained(self).toOpaque())
  }

  private func allocate(_ byteCount: Int) -> UnsafeMutableRawPointer? {
    let overhead = Self.headerBytes + Self.overheadBytes
    guard byteCount >= 0, byteCount <= bytesMax - bytes - overhead else {
      failure = failure ?? .tooMuchMemory(limit: bytesMax)
      return nil
    }
    guard let block = malloc(Self.headerBytes + byteCount) else {
      failure = failure ?? .outOfMemory
      return nil
    }
    bytes += byteCount + overhead
    block.initializeMemory(as: Header.self, to: Header(next: first, byteCount: byteCount))
    first = block
    return block + Self.headerBytes
  }

  /// How many bytes were asked for at `pointer`, which `allocate` gave out.
  static func byteCount(of pointer: UnsafeMutablePointer<CChar>) -> Int {
    (UnsafeMutableRawPointer(pointer) - headerBytes).assumingMemoryBound(to: Header.self).pointee
      .byteCount
  }
}
