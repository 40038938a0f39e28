internal import Foundation
internal import GranuleFiles
internal import GranuleTensors

/// Writes a `.npy` file of float32, as NumPy does.
///
/// - Parameter shape: as many elements as there are values.
public func writeNumpy(_ values: [Float], shape: [Int], to path: String) throws {
  precondition(values.count == shape.reduce(1, *))
  let lengths = shape.map(String.init).joined(separator: ", ")
  var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(lengths),), }"
  while (10 + header.utf8.count + 1) % 64 != 0 { header += " " }
  header += "\n"
  var bytes: [UInt8] = [0x93] + Array("NUMPY".utf8) + [1, 0]
  bytes += [UInt8(header.utf8.count & 255), UInt8(header.utf8.count >> 8)] + Array(header.utf8)
  bytes += values.withBytes { Array($0) }
  try Data(bytes).write(to: URL(fileURLWithPath: path))
}
