import ArgumentParser

/// Granularities on the command line: `512,1024,8192`.
struct Granularities: ExpressibleByArgument {
  let values: [Int]

  /// As it is written on the command line, for help.
  var defaultValueDescription: String { values.map(String.init).joined(separator: ",") }

  init(values: [Int]) { self.values = values }

  init?(argument: String) {
    let values = argument.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
    guard !values.isEmpty, !values.contains(nil) else { return nil }
    self.values = values.compactMap { $0 }
    guard zip(self.values, self.values.dropFirst()).allSatisfy({ $0 < $1 }),
      self.values[0] >= 1
    else { return nil }
  }
}

/// One of the values of an enumeration on the command line, for those that other modules define.
///
/// - Throws: `ValidationError` that lists them.
func choice<Value: RawRepresentable<String> & CaseIterable>(_ text: String) throws -> Value {
  guard let value = Value(rawValue: text) else {
    throw ValidationError(
      "\(text) is none of \(Value.allCases.map(\.rawValue).joined(separator: ", "))")
  }
  return value
}

/// Numbers on the command line: `1,0.5,2`.
struct Numbers: ExpressibleByArgument {
  let values: [Double]

  init?(argument: String) {
    let values = argument.split(separator: ",", omittingEmptySubsequences: false).map {
      Double($0)
    }
    guard !values.isEmpty, !values.contains(nil) else { return nil }
    self.values = values.compactMap { $0 }
  }
}

/// A range of sequences on the command line, both ends included: `0-35`, or one: `7`.
struct SequenceRange: ExpressibleByArgument {
  let range: Range<Int>

  init?(argument: String) {
    let ends = argument.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
    guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1],
      0 <= first, first <= last, last < Int.max
    else { return nil }
    range = first..<last + 1
  }
}
