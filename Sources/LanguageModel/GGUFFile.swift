public import GranuleFiles
internal import GranuleTensors

/// A GGUF file, version 3, little-endian: metadata, then the tensors' names and shapes, then their
/// bytes, each tensor at a multiple of the file's alignment. Every count, length and offset is
/// checked before it is used; tensors may share bytes, but all lie within the file.
public struct GGUFFile: Sendable {
  /// Dimensions of a tensor that the format allows.
  static let dimensionsMax = 4
  /// Alignment where the file states none, in bytes.
  static let alignmentDefault = 32
  /// The largest alignment that is believed, in bytes.
  static let alignmentMax = 1 << 20

  /// The metadata.
  public let metadata: [String: GGUFValue]
  /// The tensors, in the file's order.
  public let tensors: [GGUFTensor]
  /// The file.
  public let file: FileBytes
  private let tensorsByName: [String: Int]

  /// Maps a file, which nobody may shorten while it is in use.
  ///
  /// - Throws: `FileError` as `init(_:)` does, or where it cannot be opened.
  public init(path: String) throws(FileError) { try self.init(FileBytes.map(path)) }

  /// Reads metadata and shapes; tensors are views of `file`.
  ///
  /// - Throws: `FileError`, naming the key or tensor concerned, for every way in which the
  ///   file departs from the format, and for element types that are not read.
  public init(_ file: FileBytes) throws(FileError) {
    var reader = GGUFReader(file)
    let magic = try reader.integer(UInt32.self)
    guard magic == 0x4655_4747 else {  // "GGUF"
      throw FileError(file: file.path, fault: "is not a GGUF file: it does not begin with GGUF")
    }
    let version = try reader.integer(UInt32.self)
    guard version == 3 else {
      let what = version.byteSwapped == 3 ? "is a big-endian GGUF file" : "has version \(version)"
      throw FileError(
        file: file.path, fault: "\(what), little-endian files of version 3 are read")
    }
    // A tensor takes at least a name of one byte with its length, one dimension with their number, a
    // type and an offset; a key takes a name, a type and a value of one byte.
    let tensorCount = try reader.count(of: "tensors", bytesEach: 33)
    let keyCount = try reader.count(of: "keys", bytesEach: 14)

    var metadata: [String: GGUFValue] = [:]
    for number in 0..<keyCount {
      reader.place = "key \(number) of \(keyCount)"
      let key = try reader.name()
      reader.place = "key \(key)"
      let value = try reader.value(try reader.valueType(), key: key)
      guard metadata.updateValue(value, forKey: key) == nil else {
        throw reader.fault("occurs twice")
      }
    }

    var alignment = Self.alignmentDefault
    if let stated = metadata["general.alignment"] {
      guard let value = stated.integer, (1...Self.alignmentMax).contains(value),
        value & (value - 1) == 0
      else {
        throw FileError(
          file: file.path,
          key: "general.alignment",
          fault: "must be a power of two up to \(Self.alignmentMax)")
      }
      alignment = value
    }

    var entries: [Entry] = []
    var tensorsByName: [String: Int] = [:]
    for number in 0..<tensorCount {
      reader.place = "tensor \(number) of \(tensorCount)"
      let entry = try Entry(&reader)
      guard tensorsByName.updateValue(number, forKey: entry.name) == nil else {
        throw reader.fault("occurs twice")
      }
      entries.append(entry)
    }
    let (dataStart, dataCount) = Self.data(
      after: reader.offset, alignment: alignment, fileBytes: file.bytes.count)
    self.metadata = metadata
    self.file = file
    self.tensorsByName = tensorsByName
    var tensors: [GGUFTensor] = []
    for entry in entries {
      tensors.append(
        try entry.tensor(
          of: file, dataStart: dataStart, dataCount: dataCount, alignment: alignment))
    }
    self.tensors = tensors
  }

  /// The tensor called `name`, or nil.
  public subscript(name: String) -> GGUFTensor? { tensorsByName[name].map { tensors[$0] } }

  /// An error that names this file and a key of its metadata.
  public func fault(key: String, _ fault: String) -> FileError {
    FileError(file: file.path, key: key, fault: fault)
  }

  /// The value of `key` in the form that `value` takes it.
  ///
  /// - Parameters:
  ///   - what: the form with its article, for the message.
  ///   - value: nil if the form differs.
  /// - Returns: nil if the file has no such key.
  /// - Throws: `FileError` if the value has another form.
  func optional<T>(
    _ key: String, _ what: String, _ value: (GGUFValue) -> T?
  ) throws(FileError) -> T? {
    guard let stored = metadata[key] else { return nil }
    guard let result = value(stored) else { throw fault(key: key, "is not \(what)") }
    return result
  }

  /// The same for a key that must be there.
  func required<T>(
    _ key: String, _ what: String, _ value: (GGUFValue) -> T?
  ) throws(FileError) -> T {
    guard let result = try optional(key, what, value) else {
      throw fault(key: key, "is missing")
    }
    return result
  }

  private static func data(
    after offset: Int, alignment: Int, fileBytes: Int
  ) -> (start: Int, count: Int) {
    let start = (offset + alignment - 1) / alignment * alignment
    return (start, max(0, fileBytes - start))
  }

  /// What the file says of a tensor before the data.
  private struct Entry {
    let name: String
    let shape: [Int]
    let type: GGUFElementType
    let offset: UInt64

    init(_ reader: inout GGUFReader) throws(FileError) {
      name = try reader.name()
      reader.place = "tensor \(name)"
      let dimensions = try reader.integer(UInt32.self)
      guard (1...UInt32(GGUFFile.dimensionsMax)).contains(dimensions) else {
        throw reader.fault(
          "has \(dimensions) dimensions, 1 to \(GGUFFile.dimensionsMax) are allowed")
      }
      var lengths: [Int] = []
      for _ in 0..<dimensions {
        let length = try reader.integer(UInt64.self)
        guard let length = Int(exactly: length), length > 0 else {
          throw reader.fault("has a dimension of length \(length)")
        }
        lengths.append(length)
      }
      shape = lengths.reversed()
      let typeNumber = try reader.integer(UInt32.self)
      guard let type = GGUFElementType(rawValue: typeNumber) else {
        let known = GGUFElementType.allCases.map(\.name).joined(separator: ", ")
        let name = GGUFElementType.names[typeNumber] ?? "number \(typeNumber)"
        throw reader.fault("has element type \(name), which is not supported; known are \(known)")
      }
      self.type = type
      offset = try reader.integer(UInt64.self)
    }

    func tensor(
      of file: FileBytes, dataStart: Int, dataCount: Int, alignment: Int
    ) throws(FileError) -> GGUFTensor {
      func fault(_ text: String) -> FileError {
        FileError(file: file.path, tensor: name, fault: text)
      }
      guard let rowElements = shape.last, rowElements % type.blockElements == 0 else {
        throw fault(
          "\(type.name) \(shape): rows are not a multiple of its blocks of \(type.blockElements)")
      }
      var byteCount = rowElements / type.blockElements
      for factor in shape.dropLast() + [type.blockBytes] {
        let (product, overflow) = byteCount.multipliedReportingOverflow(by: factor)
        guard !overflow else { throw fault("its shape \(shape) is beyond 63 bits of bytes") }
        byteCount = product
      }
      guard offset % UInt64(alignment) == 0 else {
        throw fault("its offset \(offset) is not a multiple of the alignment, \(alignment)")
      }
      guard offset <= UInt64(dataCount), byteCount <= dataCount - Int(offset) else {
        throw fault(
          "\(type.name) \(shape) needs \(byteCount) bytes at offset \(offset), but the file has "
            + "only \(dataCount) bytes of data")
      }
      let start = dataStart + Int(offset)
      return GGUFTensor(
        name: name, type: type, shape: shape, count: shape.reduce(1, *), file: file,
        byteRange: start..<start + byteCount)
    }
  }
}
