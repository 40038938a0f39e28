/// Passes one value from one thread to another, which waits for it.
package final class Handover<Value: Sendable>: Sendable {
  private let value = Monitor<Value?>(nil)

  /// Nothing yet.
  package init() {}

  /// Gives the value; later ones are ignored.
  package func give(_ value: Value) {
    self.value.change { if $0 == nil { $0 = value } }
  }

  /// Waits for the value.
  package func take() -> Value { value.wait { $0 } }
}
