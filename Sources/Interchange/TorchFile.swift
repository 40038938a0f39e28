internal import Glibc
internal import GranuleFiles
internal import GranuleTensors

/// A state dict that torch.save wrote (torch 1.6 and later): a zip with a pickle that describes the
/// tensors and an entry for each storage. The pickle is read as data; nothing in it is run.
package struct TorchFile {
  /// The tensors, under their keys.
  let tensors: TensorCollection
  /// Values that are not tensors: strings, numbers, dictionaries.
  let others: [String: PickledValue]

  /// The longest pickle that is read, in bytes: it names tensors, and holds none.
  private static let pickleBytesMax = 16 << 20

  /// Reads the pickle; of tensors only sizes are looked at.
  ///
  /// - Throws: `FileError` that names the tensor at fault, or what the pickle has that a state
  ///   dict has not.
  init(_ path: String) throws(FileError) {
    func fault(_ text: String) -> FileError { FileError(file: path, fault: text) }
    let archive = try ZipArchive(path)
    let pickles = archive.entries.filter { $0.name == "data.pkl" || $0.name.hasSuffix("/data.pkl") }
    guard let pickle = pickles.first, pickles.count == 1 else {
      throw fault("has \(pickles.count) entries data.pkl, a file of torch.save has one")
    }
    let prefix = String(pickle.name.dropLast("data.pkl".count))
    let isBigEndian = try Self.isBigEndian(archive, prefix)

    let reader = PickleReader(
      knownGlobals: Self.globals,
      persistent: { (id) throws(PickleError) in
        PickledValue(object: try Storage(id, in: archive, prefix))
      },
      call: { (name, arguments) throws(PickleError) in
        switch name {
        case "torch._utils _rebuild_tensor_v2": PickledValue(object: try View(arguments))
        case "torch._utils _rebuild_parameter": try View.ofParameter(arguments)
        default: throw PickleError(description: "its pickle calls \(name), which makes no tensor")
        }
      })
    let root: PickledValue
    do throws(PickleError) {
      root = try reader.read(try Self.bytes(archive, pickle))
    } catch { throw fault(error.description) }
    guard let members = root.members else {
      throw fault("holds no state dict, but another object")
    }
    var tensors: [StoredTensor] = []
    var others: [String: PickledValue] = [:]
    var names: Set<String> = []
    for (key, value) in members {
      guard let name = key.string else {
        throw fault("its state dict has a key that is not a string")
      }
      guard names.insert(name).inserted else { throw fault("its state dict has \(name) twice") }
      if let view = value.object as? View {
        tensors.append(try view.tensor(name, archive, isBigEndian: isBigEndian))
      } else {
        others[name] = value
      }
    }
    self.tensors = TensorCollection(file: path, tensors: tensors)
    self.others = others
  }

  private static let types: [String: ElementType] = [
    "DoubleStorage": .float64, "FloatStorage": .float32, "HalfStorage": .float16,
    "BFloat16Storage": .bfloat16, "LongStorage": .int64, "IntStorage": .int32,
    "ShortStorage": .int16, "CharStorage": .int8, "ByteStorage": .uint8, "BoolStorage": .bool,
  ]

  /// What a state dict's pickle may name, as `module name`.
  package static let globals = Set(
    types.keys.map { "torch \($0)" } + [
      "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
      "collections OrderedDict",
    ])

  private static func bytes(
    _ archive: ZipArchive, _ entry: ZipArchive.Entry
  ) throws(PickleError) -> [UInt8] {
    do throws(FileError) {
      return try archive.bytes(of: entry, byteCountMax: pickleBytesMax)
    } catch { throw PickleError(description: error.fault) }
  }

  private static func isBigEndian(
    _ archive: ZipArchive, _ prefix: String
  ) throws(FileError) -> Bool {
    guard let entry = archive["\(prefix)byteorder"] else { return false }
    let order = String(
      decoding: try archive.bytes(of: entry, byteCountMax: 64), as: UTF8.self)
    switch order {
    case "little": return false
    case "big": return true
    default:
      throw FileError(
        file: archive.path, fault: "its byteorder is \(order), known are little, big")
    }
  }

  /// Elements of one type in an entry of the archive.
  private struct Storage {
    let type: ElementType
    let entry: ZipArchive.Entry
    var count: Int { entry.byteCount / type.byteCount }

    /// - Parameter id: ('storage', class, key, device, number of elements)
    init(
      _ id: PickledValue, in archive: ZipArchive, _ prefix: String
    ) throws(PickleError) {
      func fault(_ text: String) -> PickleError { PickleError(description: "its pickle \(text)") }
      guard let parts = id.tuple, parts.count == 5, parts[0].string == "storage",
        let type = parts[1].global?.split(separator: " ").last.flatMap({ types[String($0)] }),
        let key = parts[2].string, let count = parts[4].integer, count >= 0
      else { throw fault("has a persistent id that is not a storage") }
      guard let entry = archive["\(prefix)data/\(key)"] else {
        throw fault("names storage \(key), which the archive does not have")
      }
      let (byteCount, overflow) = count.multipliedReportingOverflow(by: type.byteCount)
      guard !overflow, byteCount == entry.byteCount else {
        throw fault(
          "says that storage \(key) has \(count) elements of \(type.byteCount) bytes, it has "
            + "\(entry.byteCount) bytes")
      }
      self.type = type
      self.entry = entry
    }
  }

  /// A tensor's place in a storage.
  private struct View {
    let storage: Storage
    let offset: Int
    let shape: [Int]
    let strides: [Int]

    /// - Parameter arguments: (storage, offset, size, stride, requires_grad, hooks …)
    init(_ arguments: [PickledValue]) throws(PickleError) {
      guard arguments.count >= 4, let storage = arguments[0].object as? Storage,
        let offset = arguments[1].integer, let shape = arguments[2].tuple?.map(\.integer),
        let strides = arguments[3].tuple?.map(\.integer), !shape.contains(nil),
        !strides.contains(nil)
      else { throw PickleError(description: "its pickle makes a tensor of other than a storage") }
      self.storage = storage
      self.offset = offset
      self.shape = shape.compactMap { $0 }
      self.strides = strides.compactMap { $0 }
    }

    static func ofParameter(_ arguments: [PickledValue]) throws(PickleError) -> PickledValue {
      guard let data = arguments.first, data.object is View else {
        throw PickleError(description: "its pickle makes a parameter of no tensor")
      }
      return data
    }

    func tensor(
      _ name: String, _ archive: ZipArchive, isBigEndian: Bool
    ) throws(FileError) -> StoredTensor {
      func fault(_ text: String) -> FileError {
        FileError(file: archive.path, tensor: name, fault: text)
      }
      guard shape.count == strides.count, shape.count <= 8, offset >= 0,
        shape.allSatisfy({ $0 >= 0 }), strides.allSatisfy({ $0 >= 0 })
      else {
        throw fault("has offset \(offset), shape \(shape) and strides \(strides)")
      }
      // Where the last element is; a view may repeat elements, so the count is bounded besides.
      var last = offset
      var count = 1
      var overflow = false
      func checked(_ result: (partialValue: Int, overflow: Bool)) -> Int {
        overflow = overflow || result.overflow
        return result.partialValue
      }
      for (length, stride) in zip(shape, strides) {
        count = checked(count.multipliedReportingOverflow(by: length))
        last = checked(
          last.addingReportingOverflow(
            checked(max(length - 1, 0).multipliedReportingOverflow(by: stride))))
      }
      guard !overflow, !count.multipliedReportingOverflow(by: 8).overflow,
        count == 0 || last < storage.count
      else {
        throw fault(
          "has offset \(offset), shape \(shape) and strides \(strides), beyond its storage of "
            + "\(storage.count) elements")
      }
      let order: StoredTensor.Order? =
        isContiguous(shape, strides)
        ? .rowMajor : isContiguous(shape.reversed(), strides.reversed()) ? .columnMajor : nil
      let (storage, offset) = (storage, offset)
      guard let order else {
        return StoredTensor(
          name: name, file: archive.path, type: storage.type, shape: shape,
          isBigEndian: isBigEndian
        ) { () throws(FileError) in try gathered(archive) }
      }
      let size = storage.type.byteCount
      return StoredTensor(
        name: name, file: archive.path, type: storage.type, shape: shape, order: order,
        isBigEndian: isBigEndian
      ) { () throws(FileError) in
        try archive.source(of: storage.entry, from: offset * size, count: count * size)
      }
    }

    private func isContiguous(_ shape: [Int], _ strides: [Int]) -> Bool {
      var expected = 1
      for (length, stride) in zip(shape, strides).reversed() {
        if length != 1 && stride != expected { return false }
        // An empty tensor may have lengths of any size.
        expected = expected &* length
      }
      return true
    }

    /// Elements in row-major order, from the whole storage in memory: for views that are neither rows
    /// nor columns one after the other.
    private func gathered(_ archive: ZipArchive) throws(FileError) -> StoredTensor.Source {
      guard Memory.canBeHad(storage.entry.byteCount) else {
        throw FileError(
          file: archive.path,
          fault: "needs \(storage.entry.byteCount) bytes of memory for a strided tensor, more than "
            + "can be had")
      }
      let bytes = try archive.bytes(of: storage.entry, byteCountMax: storage.entry.byteCount)
      let size = storage.type.byteCount
      var next = 0
      return { (buffer) throws(FileError) in
        for start in stride(from: 0, to: buffer.count, by: size) {
          var rest = next
          var place = offset
          for (length, step) in zip(shape, strides).reversed() {
            place += rest % length * step
            rest /= length
          }
          for byte in 0..<size { buffer[start + byte] = bytes[place * size + byte] }
          next += 1
        }
      }
    }
  }
}
