import CGranuleProto

/// The C structures of one message while it is packed; bulk bytes are pointed to, not copied.
final class PackingScratch {
  private var blocks: [UnsafeMutableRawPointer] = []

  deinit { for block in blocks { block.deallocate() } }

  /// A fresh message, initialised by its generated `…__init` function.
  func message<Message>(_ initialize: (UnsafeMutablePointer<Message>?) -> Void)
    -> UnsafeMutablePointer<Message>
  {
    let message = UnsafeMutablePointer<Message>.allocate(capacity: 1)
    blocks.append(UnsafeMutableRawPointer(message))
    initialize(message)
    return message
  }

  func string(_ text: String) -> UnsafeMutablePointer<CChar> {
    array(text.utf8.map { CChar(bitPattern: $0) } + [0])
  }

  func array<Element>(_ elements: [Element]) -> UnsafeMutablePointer<Element> {
    let copy = UnsafeMutableBufferPointer<Element>.allocate(capacity: max(elements.count, 1))
    _ = copy.initialize(from: elements)
    guard let base = copy.baseAddress else { preconditionFailure("an allocation has an address") }
    blocks.append(UnsafeMutableRawPointer(base))
    return base
  }

  /// The caller keeps `bytes` alive until the message is packed.
  func bytes(_ bytes: SharedBytes) -> ProtobufCBinaryData {
    guard bytes.count > 0, let start = bytes.pointer else {
      return ProtobufCBinaryData(len: 0, data: nil)
    }
    return ProtobufCBinaryData(
      len: bytes.count,
      data: UnsafeMutablePointer(mutating: start.assumingMemoryBound(to: UInt8.self)))
  }

  func tensor(_ tensor: PackedTensor) -> UnsafeMutablePointer<Granule__V1__Tensor> {
    let message = message(granule__v1__tensor__init)
    message.pointee.type = Granule__V1__DataType(tensor.type.rawValue)
    message.pointee.n_shape = tensor.shape.count
    message.pointee.shape = array(tensor.shape)
    message.pointee.data = bytes(tensor.data)
    return message
  }

  func codes(_ codes: PackedCodes) -> UnsafeMutablePointer<Granule__V1__SparseCodes> {
    let message = message(granule__v1__sparse_codes__init)
    message.pointee.row_offsets = bytes(codes.rowOffsets)
    message.pointee.indices = bytes(codes.indices)
    message.pointee.values = bytes(codes.values)
    return message
  }
}
