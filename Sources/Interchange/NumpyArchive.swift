internal import GranuleFiles
internal import GranuleTensors

/// An `.npz` file: a zip of `.npy` files, deflated or not.
enum NumpyArchive {
  /// The archive's arrays; only their headers are read.
  ///
  /// - Throws: `FileError` that names the array at fault.
  static func tensors(_ path: String) throws(FileError) -> TensorCollection {
    let archive = try ZipArchive(path)
    var tensors: [StoredTensor] = []
    for entry in archive.entries {
      guard entry.name.hasSuffix(".npy") else {
        throw FileError(
          file: path, fault: "has the entry \(entry.name); an .npz archive holds .npy files only")
      }
      let name = String(entry.name.dropLast(4))
      let header = try NumpyHeader(
        file: path, tensor: name, byteCount: entry.byteCount,
        read: archive.source(of: entry, from: 0, count: .max))
      tensors.append(
        StoredTensor(
          name: name, file: path, type: header.type, shape: header.shape, order: header.order,
          isBigEndian: header.isBigEndian
        ) { () throws(FileError) in
          try archive.source(
            of: entry, from: header.byteCount, count: entry.byteCount - header.byteCount)
        })
    }
    return TensorCollection(file: path, tensors: tensors)
  }
}
