import ArgumentParser

/// Numbers separated by commas; nil if one of them cannot be read.
private func list<Number>(_ text: String, _ read: (String) -> Number?) -> [Number]? {
  let numbers = text.split(separator: ",", omittingEmptySubsequences: false).map {
    read(String($0))
  }
  let known = numbers.compactMap { $0 }
  return known.count == numbers.count && !known.isEmpty ? known : nil
}

private func isAscending(_ numbers: [Int]) -> Bool {
  zip(numbers, numbers.dropFirst()).allSatisfy { $0 < $1 }
}

/// Granularities on the command line: `512,1024,8192`.
package struct Granularities: ExpressibleByArgument {
  /// Ascending, at least 1.
  package let values: [Int]

  /// The granularities as help shows them.
  package var defaultValueDescription: String {
    values.map(String.init).joined(separator: ",")
  }

  package init(values: [Int]) { self.values = values }

  package init?(argument: String) {
    guard let values = list(argument, { Int($0) }), isAscending(values), values[0] >= 1 else {
      return nil
    }
    self.values = values
  }
}

/// Counts on the command line, ascending from 0 or more: `0,2000`.
package struct Counts: ExpressibleByArgument {
  package let values: [Int]

  /// The counts as help shows them.
  package var defaultValueDescription: String {
    values.map(String.init).joined(separator: ",")
  }

  package init(values: [Int]) { self.values = values }

  package init?(argument: String) {
    guard let values = list(argument, { Int($0) }), isAscending(values), values[0] >= 0 else {
      return nil
    }
    self.values = values
  }
}

/// Layers on the command line, in any order: `10` or `10,15`.
package struct LayerList: ExpressibleByArgument {
  package let values: [Int]

  package init?(argument: String) {
    guard let values = list(argument, { Int($0) }) else { return nil }
    self.values = values
  }
}

/// Numbers on the command line: `1,0.5,2`.
package struct Numbers: ExpressibleByArgument {
  package let values: [Double]

  /// The numbers as help shows them.
  package var defaultValueDescription: String { values.map { "\($0)" }.joined(separator: ",") }

  package init(values: [Double]) { self.values = values }

  package init?(argument: String) {
    guard let values = list(argument, { Double($0) }) else { return nil }
    self.values = values
  }
}

/// Shares of a whole on the command line: `0.01,0.5`.
package struct ShareRange: ExpressibleByArgument {
  package let range: ClosedRange<Double>

  package init?(argument: String) {
    guard let ends = list(argument, { Double($0) }), ends.count == 2, 0 <= ends[0],
      ends[0] < ends[1], ends[1] <= 1
    else { return nil }
    range = ends[0]...ends[1]
  }
}

/// A range of sequences on the command line, both ends included: `0-35`, or one: `7`.
package struct SequenceRange: ExpressibleByArgument {
  package let range: Range<Int>

  package init?(argument: String) {
    let ends = argument.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
    guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1],
      0 <= first, first <= last, last < Int.max
    else { return nil }
    range = first..<last + 1
  }
}

/// A value of an enumeration of another module, by its raw value.
///
/// - Throws: `ValidationError` that lists the values.
package func choice<Value: RawRepresentable<String> & CaseIterable>(
  _ text: String
) throws -> Value {
  guard let value = Value(rawValue: text) else {
    throw ValidationError(
      "\(text) is not one of \(Value.allCases.map(\.rawValue).joined(separator: ", "))")
  }
  return value
}

/// Checks that a number lies in the range that an option allows.
///
/// - Throws: `ValidationError` that names the option, the number and the range.
package func require<Number: Comparable>(
  _ option: String, _ number: Number?, in range: ClosedRange<Number>, _ unit: String = ""
) throws {
  guard let number, !range.contains(number) else { return }
  throw ValidationError(
    "\(option) is \(number); it must be \(range.lowerBound) to \(range.upperBound)"
      + (unit.isEmpty ? "" : " \(unit)"))
}

/// Checks that a number is at least as large as an option needs.
///
/// - Throws: `ValidationError` that names the option, the number and the least.
package func require<Number: Comparable>(
  _ option: String, _ number: Number?, atLeast least: Number
) throws {
  guard let number, !(number >= least) else { return }
  throw ValidationError("\(option) is \(number); it must be at least \(least)")
}
