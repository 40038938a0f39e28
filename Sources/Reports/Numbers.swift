import Foundation

extension Double {
  /// The number with `digits` digits after the point.
  package func formatted(digits: Int) -> String { String(format: "%.\(digits)f", self) }

  /// A time in seconds as `1:02:03`, `2:03` or `4 s`; `?` if it is not known.
  package var duration: String {
    guard isFinite, self < 1e7 else { return "?" }
    let total = Int(rounded())
    if total < 60 { return "\(total) s" }
    let (hours, minutes, rest) = (total / 3600, total / 60 % 60, total % 60)
    return hours > 0
      ? String(format: "%d:%02d:%02d", hours, minutes, rest)
      : String(format: "%d:%02d", minutes, rest)
  }
}

extension Int {
  /// The number with a comma between thousands.
  package var grouped: String {
    var digits = String(magnitude)
    var groups: [String] = []
    while digits.count > 3 {
      groups.insert(String(digits.suffix(3)), at: 0)
      digits.removeLast(3)
    }
    return (self < 0 ? "-" : "") + ([digits] + groups).joined(separator: ",")
  }
}
