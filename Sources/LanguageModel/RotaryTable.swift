internal import Glibc
internal import GranuleTensors

/// Cosines and sines of rotary embedding, as `gk_rotate_pairs` takes them.
struct RotaryTable {
  /// [positions, headDimension] each; angles in double precision.
  let cosines, sines: FloatStorage
  let headDimension: Int

  init(positions: Int, headDimension: Int, theta: Double) {
    cosines = FloatStorage(count: positions * headDimension)
    sines = FloatStorage(count: positions * headDimension)
    self.headDimension = headDimension
    let frequencies = stride(from: 0, to: headDimension, by: 2).map {
      pow(theta, -Double($0) / Double(headDimension))
    }
    for position in 0..<positions {
      for (pair, frequency) in frequencies.enumerated() {
        let angle = Double(position) * frequency
        let first = position * headDimension + 2 * pair
        cosines.pointer[first] = Float(cos(angle))
        cosines.pointer[first + 1] = Float(cos(angle))
        sines.pointer[first] = -Float(sin(angle))
        sines.pointer[first + 1] = Float(sin(angle))
      }
    }
  }
}
