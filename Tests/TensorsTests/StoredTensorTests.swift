import GranuleFiles
import GranuleTensors
import TestSupport
import Testing

@Suite("A tensor that is read in pieces")
struct StoredTensorTests {
  /// Rows that are longer than a piece, that fill several pieces, that are parts of one.
  static let shapes = [[3, 2_100_001], [2_100_001, 3], [1500, 1501], [7, 5], [1, 1]]

  /// Element i is i, modulo what float32 counts exactly.
  func tensor(
    _ shape: [Int], order: StoredTensor.Order = .rowMajor, isBigEndian: Bool = false
  ) -> StoredTensor {
    StoredTensor(
      name: "t", file: "f", type: .float32, shape: shape, order: order, isBigEndian: isBigEndian
    ) { () throws(FileError) in
      var next = 0
      return { (buffer) throws(FileError) in
        for place in 0..<buffer.count / 4 {
          let bits = Float(next % 16_777_216).bitPattern
          buffer.storeBytes(
            of: isBigEndian ? bits.bigEndian : bits, toByteOffset: 4 * place, as: UInt32.self)
          next += 1
        }
      }
    }
  }

  @Test(
    "is the same in either order, turned or not, whatever pieces it comes in", arguments: shapes)
  func orders(shape: [Int]) throws {
    let (rows, columns) = (shape[0], shape[1])
    for order in [StoredTensor.Order.rowMajor, .columnMajor] {
      for transposed in [false, true] {
        let values = try tensor(shape, order: order, isBigEndian: transposed).matrix(
          shape: shape, transposed: transposed)
        var wrong = 0
        for row in 0..<rows {
          for column in 0..<columns {
            let place = order == .rowMajor ? row * columns + column : column * rows + row
            let got = values.pointer[transposed ? column * rows + row : row * columns + column]
            if got != Float(place % 16_777_216) { wrong += 1 }
          }
        }
        #expect(wrong == 0, "\(order), transposed \(transposed)")
      }
    }
  }

  @Test("is written turned as it was read", arguments: shapes)
  func roundTrip(shape: [Int]) throws {
    let folder = try TemporaryFolder()
    let turned = try tensor(shape).matrix(shape: shape, transposed: true)
    try SafetensorsWriter.write(
      [.init("t", shape, transposing: turned)], to: "\(folder.path)/t.safetensors")
    let file = try SafetensorsFile(FileBytes.map("\(folder.path)/t.safetensors"))
    let again = try file.tensor("t").stored.matrix(shape: shape, transposed: true)
    let same = again.values.elementsEqual(turned.values)
    #expect(same)
  }

  @Test("names the element that is not finite, and its place whatever the order")
  func notFinite() {
    func tensor(_ order: StoredTensor.Order) -> StoredTensor {
      StoredTensor(name: "t", file: "f", type: .float32, shape: [2, 3], order: order) {
        () throws(FileError) in
        { (buffer) throws(FileError) in
          for place in 0..<6 {
            buffer.storeBytes(
              of: place == 4 ? Float.nan : 1, toByteOffset: 4 * place, as: Float.self)
          }
        }
      }
    }
    for (order, place) in [(StoredTensor.Order.rowMajor, "[1, 1]"), (.columnMajor, "[0, 2]")] {
      let error = #expect(throws: FileError.self) {
        try tensor(order).matrix(shape: [2, 3], transposed: true)
      }
      #expect(error?.description.contains("tensor t: \(place) is nan") == true)
    }
  }

  @Test("ends where its progress says so, and names the file")
  func interruption() {
    var told: [Double] = []
    let progress = TransferProgress(
      total: 1 << 25, onProgress: { told.append($0) }, shouldStop: { told.count == 2 })
    let error = #expect(throws: FileError.self) {
      try tensor([8, 1 << 20]).matrix(shape: [8, 1 << 20], transposed: false, progress: progress)
    }
    #expect(error?.description == "f: was interrupted")
    #expect(told == [0.25, 0.5])
  }

  @Test("of more elements than memory can hold is refused, not asked for")
  func tooLarge() {
    let huge = [1 << 30, 1 << 29]
    #expect(throws: FileError.self) {
      try tensor(huge).matrix(shape: huge, transposed: false)
    }
    #expect(throws: FileError.self) { try tensor([1 << 40]).vector(count: 1 << 40) }
    #expect(throws: FileError.self) { try tensor([1 << 40]).loaded() }
  }
}
