/// Who asks. Turns in the queue, room in memory and permissions are granted to each principal.
///
/// Today each connection is a principal of its own.
public struct Principal: Sendable, Hashable {
  /// A number that no other principal has.
  public let id: UInt64
  /// Whether it may load, unload and resize models.
  public let mayAdminister: Bool

  /// A principal.
  public init(id: UInt64, mayAdminister: Bool = false) {
    self.id = id
    self.mayAdminister = mayAdminister
  }
}

/// Until when an answer is of use.
public struct Deadline: Sendable, Equatable {
  /// The moment from which nobody wants the answer; nil if there is none.
  public let moment: ContinuousClock.Instant?

  /// No deadline: the answer is of use whenever it comes.
  public static let none = Deadline(at: nil)

  /// A deadline at `moment`; nil is none.
  public init(at moment: ContinuousClock.Instant?) { self.moment = moment }

  /// A deadline `milliseconds` after `arrival`; 0 milliseconds are none.
  public init(milliseconds: UInt32, after arrival: ContinuousClock.Instant) {
    self.init(at: milliseconds == 0 ? nil : arrival + .milliseconds(Int64(milliseconds)))
  }

  /// Whether the answer is of no more use at `now`.
  public func hasPassed(at now: ContinuousClock.Instant) -> Bool {
    moment.map { now >= $0 } ?? false
  }
}
