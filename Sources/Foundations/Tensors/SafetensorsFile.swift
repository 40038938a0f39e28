public import GranuleFiles

/// A safetensors file: an 8-byte little-endian header length, a JSON header, and the tensors' bytes
/// without holes. Checked more strictly than the reference reader: duplicate keys are refused.
public struct SafetensorsFile: Sendable {
  /// The longest header that is read, in bytes: the reference implementation's limit.
  public static let headerBytesMax = 100_000_000

  /// The tensors, in the order of their bytes.
  public let tensors: [Tensor]
  /// The strings under `__metadata__`.
  public let metadata: [String: String]
  /// The file.
  public let file: FileBytes

  /// The tensor called `name`, or nil.
  public subscript(name: String) -> Tensor? { tensors.first { $0.name == name } }

  /// The tensor called `name`.
  ///
  /// - Throws: `FileError` naming the tensors of the file, if this is not one of them.
  public func tensor(_ name: String) throws(FileError) -> Tensor {
    if let tensor = self[name] { return tensor }
    let names = tensors.prefix(20).map(\.name).joined(separator: ", ")
    throw FileError(
      file: file.path, tensor: name, fault: "is missing; the file has \(names)")
  }

  /// Reads the header; tensors are views of `file`.
  ///
  /// - Throws: `FileError`, naming the tensor concerned, for every departure from the format. Nothing is allocated by a length that was not checked first.
  public init(_ file: FileBytes) throws(FileError) {
    let bytes = file.bytes
    func fault(_ tensor: String?, _ text: String) -> FileError {
      FileError(file: file.path, tensor: tensor, fault: text)
    }
    guard bytes.count >= 8 else {
      throw fault(nil, "is \(bytes.count) bytes long, a safetensors file has at least 8")
    }
    let claimed = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
    guard claimed <= UInt64(Self.headerBytesMax) else {
      throw fault(nil, "claims a header of \(claimed) bytes, the limit is \(Self.headerBytesMax)")
    }
    let dataStart = 8 + Int(claimed)
    guard dataStart <= bytes.count else {
      throw fault(nil, "claims a header of \(claimed) bytes, but is only \(bytes.count) bytes long")
    }
    let header: JSONValue
    do throws(StrictJSONError) {
      header = try StrictJSON.parse(UnsafeRawBufferPointer(rebasing: bytes[8..<dataStart]))
    } catch {
      throw fault(nil, "the header is not valid JSON: \(error)")
    }
    guard let members = header.members else {
      throw fault(nil, "the header is \(header.kind), an object is needed")
    }

    var metadata: [String: String] = [:]
    var tensors: [(start: Int, tensor: Tensor)] = []
    for member in members {
      if member.key == "__metadata__" {
        guard let entries = member.value.members else {
          throw fault(nil, "__metadata__ is \(member.value.kind), an object is needed")
        }
        for entry in entries {
          guard let text = entry.value.string else {
            throw fault(
              nil, "__metadata__ key \(entry.key) is \(entry.value.kind), a string is needed")
          }
          metadata[entry.key] = text
        }
        continue
      }
      let tensor = try Self.tensor(member, of: file, dataStart: dataStart)
      tensors.append(tensor)
    }
    tensors.sort { $0.start < $1.start }
    var expected = 0
    for (start, tensor) in tensors {
      guard start == expected else {
        let what = start < expected ? "overlaps the tensor before it" : "leaves a hole before it"
        throw fault(
          tensor.name, "\(what): data_offsets begin at \(start), \(expected) is expected")
      }
      expected += tensor.bytes.count
    }
    let dataCount = bytes.count - dataStart
    guard expected == dataCount else {
      throw fault(nil, "has \(dataCount - expected) bytes after its last tensor")
    }
    self.tensors = tensors.map(\.tensor)
    self.metadata = metadata
    self.file = file
  }

  private static func tensor(
    _ member: JSONValue.Member, of file: FileBytes, dataStart: Int
  ) throws(FileError) -> (start: Int, tensor: Tensor) {
    func fault(_ text: String) -> FileError {
      FileError(file: file.path, tensor: member.key, fault: text)
    }
    guard let fields = member.value.members else {
      throw fault("its header entry is \(member.value.kind), an object is needed")
    }
    if let unknown = fields.first(where: { !["dtype", "shape", "data_offsets"].contains($0.key) }) {
      throw fault("its header entry has an unknown key \(unknown.key)")
    }
    guard let typeName = member.value["dtype"]?.string else { throw fault("has no dtype") }
    guard let type = ElementType(rawValue: typeName) else {
      let known = ElementType.allCases.map(\.safetensorsName).joined(separator: ", ")
      throw fault("has dtype \(typeName), known are \(known)")
    }
    guard let dimensions = member.value["shape"]?.elements else { throw fault("has no shape") }
    var shape: [Int] = []
    var byteCount = type.byteCount
    for dimension in dimensions {
      guard let length = dimension.integer, length >= 0 else {
        throw fault("its shape has an entry that is not an integer ≥ 0")
      }
      shape.append(length)
      let (product, overflow) = byteCount.multipliedReportingOverflow(by: length)
      guard !overflow else { throw fault("its shape \(shape) is beyond 63 bits of bytes") }
      byteCount = product
    }
    guard let offsets = member.value["data_offsets"]?.elements, offsets.count == 2,
      let begin = offsets[0].integer, let end = offsets[1].integer
    else { throw fault("its data_offsets are not two integers") }
    guard 0 <= begin, begin <= end else {
      throw fault("its data_offsets [\(begin), \(end)) are reversed or negative")
    }
    let dataCount = file.bytes.count - dataStart
    guard end <= dataCount else {
      throw fault("needs bytes [\(begin), \(end)), but the file has only \(dataCount)")
    }
    guard end - begin == byteCount else {
      throw fault(
        "\(type.safetensorsName) \(shape) needs \(byteCount) bytes, its data_offsets span "
          + "\(end - begin)")
    }
    let range = dataStart + begin..<dataStart + end
    return (
      begin, Tensor(name: member.key, type: type, shape: shape, file: file, byteRange: range)
    )
  }
}
