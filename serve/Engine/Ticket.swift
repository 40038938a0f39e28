public import GranuleCalls
import Synchronization

/// A call in flight, as its caller holds it.
///
/// It holds no job: the last reference to a version, whose memory takes long to free, then never ends
/// on the caller's thread.
public final class Ticket: Sendable {
  /// What was asked.
  public let method: CallMethod
  /// A number that no other call has.
  let serial: UInt64
  /// Whether the call waits for a worker or is being computed, and can be cancelled.
  let isCancellable: Bool
  private let account: Ledger.Account
  private let bytes: Atomic<Int>
  private let settled = Atomic<Bool>(false)

  /// - Parameter bytes: what was reserved for the call.
  init(
    _ method: CallMethod, serial: UInt64, isCancellable: Bool, account: Ledger.Account, bytes: Int
  ) {
    self.method = method
    self.serial = serial
    self.isCancellable = isCancellable
    self.account = account
    self.bytes = Atomic(bytes)
  }

  deinit { close() }

  /// Whether the call's last reply has been sent, or nobody waits for it.
  var isSettled: Bool { settled.load(ordering: .acquiring) }

  /// Ends the call; true for the first who does, who alone may answer it.
  func settle() -> Bool { !settled.exchange(true, ordering: .acquiringAndReleasing) }

  /// Gives back the room that was reserved: to be called once the last reply has been handed on.
  /// Letting go of the ticket does the same, once the workers have, too.
  public func close() { account.release(bytes.exchange(0, ordering: .relaxed)) }
}
