public import GranuleFiles

/// A `.npy` file, versions 1.0 to 3.0: one array, little-endian, row-major.
public struct NumpyFile: Sendable {
  /// The array.
  public let tensor: Tensor

  /// Reads the header; the tensor is a view of `file`.
  ///
  /// - Throws: `FileError` for every departure from the format, and for big-endian, column-major and
  ///   non-numeric arrays.
  public init(_ file: FileBytes) throws(FileError) {
    let bytes = file.bytes
    var read = 0
    let header = try NumpyHeader(file: file.path, tensor: nil, byteCount: bytes.count) { buffer in
      buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[read..<read + buffer.count]))
      read += buffer.count
    }
    func fault(_ text: String) -> FileError { FileError(file: file.path, fault: text) }
    guard header.order == .rowMajor else {
      throw fault("is in column-major (fortran) order, row-major is needed")
    }
    guard !header.isBigEndian else {
      throw fault("has big-endian elements, '\(header.typeName)': little-endian is needed")
    }
    tensor = Tensor(
      name: "", type: header.type, shape: header.shape, file: file,
      byteRange: header.byteCount..<bytes.count)
  }
}
