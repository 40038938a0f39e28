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
    let header: JSONReader
    do throws(StrictJSONError) {
      header = JSONReader(
        try StrictJSON.parse(UnsafeRawBufferPointer(rebasing: bytes[8..<dataStart])),
        file: file.path)
    } catch {
      throw fault(nil, "the header is not valid JSON: \(error)")
    }

    guard header.value.members != nil else {
      throw fault(nil, "the header is \(header.value.kind), an object is needed")
    }
    var metadata: [String: String] = [:]
    var tensors: [(start: Int, tensor: Tensor)] = []
    for (name, value) in try header.members() {
      if name == "__metadata__" {
        for entry in try value.members() { metadata[entry.key] = try entry.value.string() }
      } else {
        let entry = JSONReader(value.value, file: file.path, tensor: name)
        tensors.append(try Self.tensor(name, entry, of: file, dataStart: dataStart))
      }
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
    _ name: String, _ header: JSONReader, of file: FileBytes, dataStart: Int
  ) throws(FileError) -> (start: Int, tensor: Tensor) {
    func fault(_ text: String) -> FileError {
      FileError(file: file.path, tensor: name, fault: text)
    }
    let known = ["dtype", "shape", "data_offsets"]
    if let unknown = try header.members().first(where: { !known.contains($0.key) }) {
      throw fault("its header entry has an unknown key \(unknown.key)")
    }
    let type: ElementType = try header.required("dtype").choice()
    var shape: [Int] = []
    var byteCount = type.byteCount
    for dimension in try header.required("shape").elements() {
      let length = try dimension.integer(in: 0 ... .max)
      shape.append(length)
      let (product, overflow) = byteCount.multipliedReportingOverflow(by: length)
      guard !overflow else { throw fault("its shape \(shape) is beyond 63 bits of bytes") }
      byteCount = product
    }
    let offsets = try header.required("data_offsets").elements()
    guard offsets.count == 2 else { throw fault("its data_offsets are not two integers") }
    let (begin, end) = (try offsets[0].integer(), try offsets[1].integer())
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
      begin, Tensor(name: name, type: type, shape: shape, file: file, byteRange: range)
    )
  }
}
