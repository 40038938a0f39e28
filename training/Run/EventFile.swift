internal import CGranuleProto
internal import CProtobufC
internal import Glibc
package import GranuleFiles
internal import GranuleTensors

/// A file of scalars that TensorBoard reads, in TensorFlow's TFRecord format: each record is a length,
/// the length's masked CRC-32C, a protobuf Event and the Event's masked CRC-32C.
package final class EventFile {
  private let file: UnsafeMutablePointer<FILE>
  private let path: String

  /// Begins a file, replacing any.
  ///
  /// - Throws: `FileError` with the system's reason.
  package init(path: String, seconds: Double) throws(FileError) {
    guard let file = fopen(path, "we") else {
      throw FileError(file: path, fault: String(cString: strerror(errno)))
    }
    self.file = file
    self.path = path
    try "brain.Event:2".withMutableCString { (version) throws(FileError) in
      var event = Granule__TensorBoard__Event()
      granule__tensor_board__event__init(&event)
      event.wall_time = seconds
      event.file_version = version
      try append(&event)
    }
  }

  deinit { fclose(file) }

  /// Appends a record's numbers under their keys; each prefix's FVU has the prefix after a slash.
  ///
  /// - Throws: `FileError` with the system's reason, such as a full disk.
  func append(_ record: MetricsRecord, seconds: Double) throws(FileError) {
    var scalars: [(tag: String, value: Double)] = []
    for (key, value) in record.entries {
      switch value {
      case .count(let count): scalars.append((key, Double(count)))
      case .number(let number): scalars.append((key, number))
      case .prefixes(let prefixes):
        scalars += prefixes.map { ("\(key)/\($0.latents)", $0.fvu) }
      case .flag, .drawnPrefixes: break
      }
    }
    try append(scalars, step: record.step, seconds: seconds)
  }

  /// Appends values under tags; nothing if there are none.
  ///
  /// - Parameter seconds: since 1970.
  /// - Throws: `FileError` with the system's reason, such as a full disk.
  package func append(
    _ scalars: [(tag: String, value: Double)], step: Int, seconds: Double
  ) throws(FileError) {
    guard !scalars.isEmpty else { return }
    typealias Value = Granule__TensorBoard__Summary__Value
    let tags = scalars.map { strdup($0.tag) }
    defer { for tag in tags { free(tag) } }
    let values = UnsafeMutablePointer<Value>.allocate(capacity: scalars.count)
    defer { values.deallocate() }
    let pointers = UnsafeMutablePointer<UnsafeMutablePointer<Value>?>.allocate(
      capacity: scalars.count)
    defer { pointers.deallocate() }
    for (number, scalar) in scalars.enumerated() {
      granule__tensor_board__summary__value__init(values + number)
      values[number].tag = tags[number]
      values[number].kind_case =
        GRANULE__TENSOR_BOARD__SUMMARY__VALUE__KIND_SIMPLE_VALUE
      values[number].simple_value = Float(scalar.value)
      pointers[number] = values + number
    }
    var summary = Granule__TensorBoard__Summary()
    granule__tensor_board__summary__init(&summary)
    summary.n_value = scalars.count
    summary.value = pointers
    var event = Granule__TensorBoard__Event()
    granule__tensor_board__event__init(&event)
    event.wall_time = seconds
    event.step = Int64(step)
    let appended: Result<Void, FileError> = withUnsafeMutablePointer(to: &summary) {
      event.summary = $0
      do throws(FileError) { return .success(try append(&event)) } catch {
        return .failure(error)
      }
    }
    try appended.get()
  }

  private func append(_ event: inout Granule__TensorBoard__Event) throws(FileError) {
    let count = granule__tensor_board__event__get_packed_size(&event)
    var packed = [UInt8](repeating: 0, count: count)
    granule__tensor_board__event__pack(&event, &packed)
    var record = withUnsafeBytes(of: UInt64(count).littleEndian) { Array($0) }
    record += Self.maskedChecksum(record)
    record += packed
    record += Self.maskedChecksum(packed)
    guard fwrite(record, 1, record.count, file) == record.count, fflush(file) == 0 else {
      throw FileError(file: path, fault: String(cString: strerror(errno)))
    }
  }

  private static func maskedChecksum(_ bytes: [UInt8]) -> [UInt8] {
    let checksum = crc32c(bytes)
    // Rotated and shifted, since a checksum of data that holds checksums would be weak.
    let masked = (checksum >> 15 | checksum << 17) &+ 0xa282_ead8
    return withUnsafeBytes(of: masked.littleEndian) { Array($0) }
  }

  /// CRC-32C (Castagnoli; RFC 3720, appendix B.4).
  package static func crc32c(_ bytes: [UInt8]) -> UInt32 {
    ~bytes.reduce(~0) { table[Int(UInt8(truncatingIfNeeded: $0) ^ $1)] ^ $0 >> 8 }
  }

  private static let table: [UInt32] = (0..<256).map { index in
    (0..<8).reduce(UInt32(index)) { value, _ in
      value & 1 == 1 ? value >> 1 ^ 0x82f6_3b78 : value >> 1
    }
  }
}

extension String {
  /// As C functions that do not promise to leave it alone take it.
  fileprivate func withMutableCString<Failure>(
    _ body: (UnsafeMutablePointer<CChar>) throws(Failure) -> Void
  ) throws(Failure) {
    let copy = strdup(self)
    defer { free(copy) }
    if let copy { try body(copy) }
  }
}
