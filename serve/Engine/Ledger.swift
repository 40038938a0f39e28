public import GranuleCalls
import Synchronization

/// The only owner of the engine's byte counts: what calls, replies and unfinished requests hold, of
/// each principal and of all together.
public final class Ledger: Sendable {
  /// Bytes that are held.
  public struct Bytes: Sendable, Equatable {
    /// Reserved for calls in flight and their largest possible replies.
    public internal(set) var admitted = 0
    /// Replies that wait to be written.
    public internal(set) var write = 0
    /// Memory for requests that have not arrived in full.
    public internal(set) var receive = 0

    /// What a new call finds taken.
    package var occupied: Int { admitted + write }
    fileprivate var isZero: Bool { self == Bytes() }
  }

  /// All that a principal holds, and through how many accounts.
  private struct Holder {
    var bytes = Bytes()
    var accounts = 0
  }
  private struct State {
    var all = Bytes()
    var accounts = 0
    var holders: [UInt64: Holder] = [:]
  }
  private let state = Mutex(State())

  init() {}

  /// What is held, of all principals together.
  public var bytes: Bytes { state.withLock { $0.all } }

  /// Accounts that are open.
  package var accounts: Int { state.withLock { $0.accounts } }

  /// Opens an account, such as for a connection; a principal may have several.
  public func open(_ principal: Principal) -> Account {
    state.withLock { state in
      state.accounts += 1
      state.holders[principal.id, default: Holder()].accounts += 1
    }
    return Account(principal, self)
  }

  fileprivate func close(_ principal: UInt64) {
    state.withLock { state in
      state.accounts -= 1
      state.holders[principal]?.accounts -= 1
      Self.forgetIfIdle(principal, &state)
    }
  }

  fileprivate func add(_ bytes: Int, _ kind: WritableKeyPath<Bytes, Int>, _ principal: UInt64) {
    state.withLock { state in
      state.all[keyPath: kind] += bytes
      state.holders[principal, default: Holder()].bytes[keyPath: kind] += bytes
      Self.forgetIfIdle(principal, &state)
    }
  }

  private static func forgetIfIdle(_ principal: UInt64, _ state: inout State) {
    if let holder = state.holders[principal], holder.accounts == 0, holder.bytes.isZero {
      state.holders[principal] = nil
    }
  }

  /// Reserves room for a call, unless others leave too little: a principal may hold as much as it
  /// leaves free, so that one that floods takes half, and several leave the share of one more.
  ///
  /// - Returns: nil if the room is reserved, or what all and the principal hold.
  fileprivate func admit(_ bytes: Int, limit: Int, _ principal: UInt64) -> (all: Int, own: Int)? {
    state.withLock { state in
      let all = state.all.occupied
      let own = state.holders[principal]?.bytes.occupied ?? 0
      guard all == 0 || own + bytes <= limit - all else { return (all, own) }
      state.all.admitted += bytes
      state.holders[principal, default: Holder()].bytes.admitted += bytes
      return nil
    }
  }

  /// What one connection, or one embedded caller, holds.
  public final class Account: Sendable {
    /// Whose account it is.
    public let principal: Principal
    private let ledger: Ledger
    private let held = Mutex((write: 0, receive: 0, isOpen: true))

    fileprivate init(_ principal: Principal, _ ledger: Ledger) {
      self.principal = principal
      self.ledger = ledger
    }

    deinit { close() }

    /// Bytes that wait to be written to the principal.
    package func setWrite(_ bytes: Int) {
      held.withLock { held in
        guard held.write != bytes, held.isOpen else { return }
        ledger.add(bytes - held.write, \.write, principal.id)
        held.write = bytes
      }
    }

    /// Bytes of memory for a request that has not arrived in full.
    package func setReceive(_ bytes: Int) {
      held.withLock { held in
        guard held.receive != bytes, held.isOpen else { return }
        ledger.add(bytes - held.receive, \.receive, principal.id)
        held.receive = bytes
      }
    }

    /// Reserves room; see `Ledger.admit`.
    func admit(_ bytes: Int, limit: Int) -> (all: Int, own: Int)? {
      ledger.admit(bytes, limit: limit, principal.id)
    }

    /// Gives back what was reserved.
    func release(_ bytes: Int) {
      if bytes != 0 { ledger.add(-bytes, \.admitted, principal.id) }
    }

    /// Ends the account; calls in flight keep their room until they end. Closing twice does no harm.
    public func close() {
      setWrite(0)
      setReceive(0)
      let wasOpen = held.withLock { held in
        defer { held.isOpen = false }
        return held.isOpen
      }
      if wasOpen { ledger.close(principal.id) }
    }
  }
}
