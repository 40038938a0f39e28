import Foundation

/// The scale of an axis: the values that it shows, where they lie, and which are labelled.
struct PlotScale {
  let isLogarithmic: Bool
  let range: ClosedRange<Double>
  let ticks: [Double]

  /// - Parameter values: the values to show; a logarithmic axis leaves out those not above zero.
  init(_ values: [Double], _ axis: Plot.Axis) {
    let (isLogarithmic, ticks) = (axis.isLogarithmic, axis.ticks)
    self.isLogarithmic = isLogarithmic
    let shown = values.filter { $0.isFinite && (!isLogarithmic || $0 > 0) }
    let (least, most) = (shown.min() ?? 1, shown.max() ?? 1)
    if isLogarithmic {
      let margin = max(0.04 * log(most / least), least == most ? 0.7 : 0)
      range = least * exp(-margin)...most * exp(margin)
      self.ticks = ticks ?? Self.logarithmicTicks(range)
    } else {
      let margin = max(0.05 * (most - least), least == most ? max(abs(least) * 0.1, 0.05) : 0)
      range = axis.range ?? least - margin...most + margin
      self.ticks = ticks ?? Self.linearTicks(range)
    }
  }

  /// The place of a value along the axis, from 0 to 1.
  func share(_ value: Double) -> Double {
    isLogarithmic
      ? log(value / range.lowerBound) / log(range.upperBound / range.lowerBound)
      : (value - range.lowerBound) / (range.upperBound - range.lowerBound)
  }

  /// Whether a value can be shown.
  func holds(_ value: Double) -> Bool { value.isFinite && (!isLogarithmic || value > 0) }

  private static func linearTicks(_ range: ClosedRange<Double>) -> [Double] {
    let width = range.upperBound - range.lowerBound
    let power = pow(10, floor(log10(width / 4)))
    let step = [1, 2, 2.5, 5, 10].map { $0 * power }.first { width / $0 <= 5.5 } ?? width
    let first = (range.lowerBound / step).rounded(.up)
    let last = (range.upperBound / step).rounded(.down)
    // Multiples instead of sums, so that 0.3 is exactly 0.3.
    return stride(from: first, through: last, by: 1).map { $0 * step }
  }

  private static func logarithmicTicks(_ range: ClosedRange<Double>) -> [Double] {
    let decades = Int(floor(log10(range.lowerBound)))...Int(ceil(log10(range.upperBound)))
    for mantissas in [[1.0], [1, 2, 5], [1, 2, 3, 4, 6, 8]] {
      let ticks = decades.flatMap { decade in mantissas.map { $0 * pow(10, Double(decade)) } }
        .filter { range.contains($0) }
      if ticks.count >= 3 {
        // Of more than seven, every second, third … is kept.
        let skip = (ticks.count + 6) / 7
        return ticks.enumerated().filter { $0.offset % skip == 0 }.map(\.element)
      }
    }
    return linearTicks(range)
  }

  /// The value as people write it: 0.05, 1,024, 10⁻⁶.
  static func label(_ value: Double) -> String {
    guard value != 0 else { return "0" }
    let exponent = Int(floor(log10(abs(value)) + 1e-9))
    if (-3..<6).contains(exponent) {
      if value == value.rounded() { return Int(value).grouped }
      var text = String(format: "%.\(max(0, 3 - min(exponent, 3)))f", value)
      while text.hasSuffix("0") { text.removeLast() }
      return text.hasSuffix(".") ? String(text.dropLast()) : text
    }
    let mantissa = value / pow(10, Double(exponent))
    let superscripts: [Character: Character] = [
      "-": "⁻", "0": "⁰", "1": "¹", "2": "²", "3": "³", "4": "⁴", "5": "⁵", "6": "⁶", "7": "⁷",
      "8": "⁸", "9": "⁹",
    ]
    let power = "10" + String(String(exponent).compactMap { superscripts[$0] })
    return abs(mantissa - 1) < 1e-9 ? power : String(format: "%g·", mantissa) + power
  }
}
