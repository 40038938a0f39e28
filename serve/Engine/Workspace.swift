import GranuleCalls
import GranuleEncoder
import GranuleTensors

/// A compute thread's own memory.
final class Workspace {
  let encoding: EncodeWorkspace
  private var converted = FloatStorage(count: 0)

  /// Memory for a thread that shares work with up to `threads - 1` others.
  init(threads: Int) { encoding = EncodeWorkspace(threads: threads) }

  /// Each call's rows as float32, valid until the next call of this function; rows that are float32
  /// already are not copied.
  func float32(_ rows: [(bytes: UnsafeRawBufferPointer, type: DataType)])
    -> [UnsafeBufferPointer<Float>]
  {
    func isReady(_ row: (bytes: UnsafeRawBufferPointer, type: DataType)) -> Bool {
      row.type == .float32
        && Int(bitPattern: row.bytes.baseAddress) % MemoryLayout<Float>.alignment == 0
    }
    let count = rows.reduce(0) { isReady($1) ? $0 : $0 + $1.bytes.count / $1.type.byteCount }
    if converted.count < count { converted = FloatStorage(count: count) }
    var target = converted.pointer
    return rows.map { row in
      if isReady(row) { return row.bytes.bindMemory(to: Float.self) }
      let elementType: ElementType =
        switch row.type {
        case .float32: .float32
        case .float16: .float16
        case .bfloat16: .bfloat16
        }
      let isConverted = convertToFloat32(row.bytes, type: elementType, into: target)
      precondition(isConverted, "every data type is a floating-point type")
      defer { target += row.bytes.count / row.type.byteCount }
      return UnsafeBufferPointer(start: target, count: row.bytes.count / row.type.byteCount)
    }
  }
}
