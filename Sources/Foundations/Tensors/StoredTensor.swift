internal import Glibc
public import GranuleFiles

/// A tensor in a file, read from its first element to its last in pieces, so that a large one takes
/// hardly more memory than its values do.
public struct StoredTensor {
  /// The order in which elements follow each other in the file.
  public enum Order: Sendable {
    /// The last index changes fastest.
    case rowMajor
    /// The first index changes fastest.
    case columnMajor
  }

  /// Fills the buffer with the bytes that follow those of the call before.
  public typealias Source = (UnsafeMutableRawBufferPointer) throws(FileError) -> Void

  /// The tensor's name in its file.
  public let name: String
  /// The file's path, for messages.
  public let file: String
  /// The type of every element.
  public let type: ElementType
  /// Elements along each dimension; empty for a scalar.
  public let shape: [Int]
  /// The order of elements in the file.
  public let order: Order
  /// Whether elements have their most significant byte first.
  public let isBigEndian: Bool
  private let open: () throws(FileError) -> Source

  /// A tensor whose bytes come from the source that `open` returns.
  ///
  /// - Precondition: the shape's product of bytes fits 63 bits.
  public init(
    name: String, file: String, type: ElementType, shape: [Int], order: Order = .rowMajor,
    isBigEndian: Bool = false, open: @escaping () throws(FileError) -> Source
  ) {
    self.name = name
    self.file = file
    self.type = type
    self.shape = shape
    self.order = order
    self.isBigEndian = isBigEndian
    self.open = open
  }

  /// Number of elements.
  public var count: Int { shape.reduce(1, *) }
  /// Number of bytes in the file.
  public var byteCount: Int { count * type.byteCount }

  /// An error that names this tensor and its file.
  public func fault(_ fault: String) -> FileError {
    FileError(file: file, tensor: name.isEmpty ? nil : name, fault: fault)
  }

  /// The most that is read at once, in bytes.
  private static let pieceBytesMax = 8 << 20

  /// All values of a vector as float32, each checked to be finite.
  ///
  /// - Throws: `FileError` if the shape is not [count], the type is not floating-point, a
  ///   value is not finite or the file cannot be read.
  public func vector(
    count: Int, progress: TransferProgress? = nil
  ) throws(FileError) -> FloatStorage {
    try requireShape([count])
    return try values(outer: 1, inner: count, transposed: false, progress: progress)
  }

  /// All values of a matrix as float32, each checked to be finite.
  ///
  /// - Parameters:
  ///   - shape: [rows, columns] that the tensor must have.
  ///   - transposed: true for a result of [columns, rows], false for [rows, columns]; row-major.
  /// - Throws: `FileError` if the shape differs, the type is not floating-point, a value
  ///   is not finite or the file cannot be read.
  public func matrix(
    shape: [Int], transposed: Bool, progress: TransferProgress? = nil
  ) throws(FileError) -> FloatStorage {
    precondition(shape.count == 2)
    try requireShape(shape)
    let isRowMajor = order == .rowMajor
    return try values(
      outer: isRowMajor ? shape[0] : shape[1], inner: isRowMajor ? shape[1] : shape[0],
      transposed: isRowMajor == transposed, progress: progress)
  }

  /// The tensor in memory, row-major and little-endian: for small ones.
  ///
  /// - Throws: `FileError` if it has more than `countMax` elements or cannot be read.
  public func loaded(countMax: Int = 1 << 20) throws(FileError) -> Tensor {
    guard count <= countMax else {
      throw fault("has shape \(shape), at most \(countMax) elements are expected")
    }
    guard shape.count < 2 || order == .rowMajor else { throw fault("is stored by columns") }
    let block = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 8)
    defer { block.deallocate() }
    if byteCount > 0 {
      try open()(block)
      reverseIfBigEndian(block)
    }
    return Tensor(
      name: name, type: type, shape: shape,
      file: try FileBytes.copy(UnsafeRawBufferPointer(block), named: file), byteRange: 0..<byteCount)
  }

  private func requireShape(_ needed: [Int]) throws(FileError) {
    guard shape == needed else {
      let isTransposed = needed.count == 2 && shape == needed.reversed()
      throw fault(
        "has shape \(shape), \(needed) is needed" + (isTransposed ? " (it seems transposed)" : ""))
    }
    guard type.isFloatingPoint else {
      throw fault("has element type \(type.safetensorsName), a floating-point type is needed")
    }
  }

  /// - Parameters:
  ///   - inner: number of elements, next to each other in the file, that share an outer index.
  ///   - transposed: true for a result of [inner, outer], false for [outer, inner].
  private func values(
    outer: Int, inner: Int, transposed: Bool, progress: TransferProgress?
  ) throws(FileError) -> FloatStorage {
    let (byteCount, overflow) = (outer * inner).multipliedReportingOverflow(by: 4)
    guard !overflow, Memory.canBeHad(byteCount) else {
      throw fault("has shape \(shape), which needs more memory than can be had")
    }
    let result = FloatStorage(uninitializedCount: outer * inner)
    guard result.count > 0 else { return result }
    // A piece is whole rows, or a part of a row that does not fit into one.
    let limit = max(1, Self.pieceBytesMax / max(type.byteCount, 4))
    let rows = min(outer, max(1, limit / inner))
    let columns = min(inner, limit)
    let block = UnsafeMutableRawBufferPointer.allocate(
      byteCount: rows * columns * type.byteCount, alignment: 64)
    defer { block.deallocate() }
    let scratch = FloatStorage(uninitializedCount: rows * columns)
    let read = try open()
    for row in stride(from: 0, to: outer, by: rows) {
      for column in stride(from: 0, to: inner, by: columns) {
        let height = min(rows, outer - row)
        let width = min(columns, inner - column)
        let piece = UnsafeMutableRawBufferPointer(
          rebasing: block[..<(height * width * type.byteCount)])
        try read(piece)
        reverseIfBigEndian(piece)
        // Without a transposition straight into place: parts of a row are next to each other.
        let target = transposed ? scratch.pointer : result.pointer + row * inner + column
        _ = convertToFloat32(UnsafeRawBufferPointer(piece), type: type, into: target)
        let values = UnsafeBufferPointer(start: target, count: height * width)
        if let odd = values.firstIndex(where: { !$0.isFinite }) {
          throw notFinite(
            values[odd], outer: row + odd / width, inner: column + odd % width)
        }
        if transposed {
          transpose(
            scratch.pointer, rows: height, rowStride: width, columns: width,
            into: result.pointer + column * outer + row, rowStride: outer)
        }
        try progress?.advance(piece.count, of: file)
      }
    }
    return result
  }

  private func notFinite(_ value: Float, outer: Int, inner: Int) -> FileError {
    let position =
      shape.count < 2
      ? "\(inner)" : order == .rowMajor ? "\(outer), \(inner)" : "\(inner), \(outer)"
    return fault("[\(position)] is \(value), every weight must be finite")
  }

  private func reverseIfBigEndian(_ bytes: UnsafeMutableRawBufferPointer) {
    guard isBigEndian, type.byteCount > 1 else { return }
    for start in stride(from: 0, to: bytes.count, by: type.byteCount) {
      bytes[start..<start + type.byteCount].reverse()
    }
  }
}

extension Tensor {
  /// The tensor to be read in pieces. If its file is mapped, pieces do not stay in memory.
  public var stored: StoredTensor {
    StoredTensor(name: name, file: file.path, type: type, shape: shape) {
      [file, byteRange] () throws(FileError) in
      var at = byteRange.lowerBound
      return { (buffer) throws(FileError) in
        let range = at..<at + buffer.count
        buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: file.bytes[range]))
        file.forget(range)
        at = range.upperBound
      }
    }
  }
}
