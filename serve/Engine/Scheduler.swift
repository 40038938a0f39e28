internal import DequeModule

/// Decides what is computed next; a state machine without threads, sockets or clocks.
///
/// How it works:
/// 1. each principal's calls are taken in the order of their arrival; further stages of a call that
///    has been started come before its other calls;
/// 2. principals take turns of about `batchTokensMax` tokens or `batchBytesMax` bytes, whichever is
///    less; what a principal takes beyond its turn is taken off its next turn;
/// 3. when a worker asks, a batch is formed from waiting calls of one principal after the other, all
///    to the same group (the same version of a model), up to bounds in tokens and bytes;
/// 4. a call that is larger than a batch is handed out in pieces; when little waits, it is shared
///    among the workers that are idle.
///
/// Fairness: when a principal's only call arrives while n principals have something waiting, at most
/// `3 * n * batchTokensMax` tokens are handed out before it, however many calls the others have and
/// however large those are: a flood does not starve a trickle. Principals of one group that always
/// have something waiting are handed out the same number of tokens, to within `3 * batchTokensMax`.
package struct Scheduler<Item> {
  /// What there is to know of a call.
  package struct Work {
    /// A number that no other call has.
    package var serial: UInt64
    /// Who asks.
    package var principal: UInt64
    /// Calls of the same group may share a batch.
    package var group: ObjectIdentifier
    package var tokens: Int
    /// Memory that a token takes, or passes through, while it is computed.
    package var bytesPerToken: Int
    /// When its wait for a worker began.
    package var since: ContinuousClock.Instant
    /// When nobody wants the answer any more.
    package var deadline: ContinuousClock.Instant?

    package init(
      serial: UInt64, principal: UInt64, group: ObjectIdentifier, tokens: Int,
      bytesPerToken: Int = 0, since: ContinuousClock.Instant,
      deadline: ContinuousClock.Instant? = nil
    ) {
      self.serial = serial
      self.principal = principal
      self.group = group
      self.tokens = tokens
      self.bytesPerToken = bytesPerToken
      self.since = since
      self.deadline = deadline
    }
  }

  /// Some consecutive tokens of one call.
  package struct Piece {
    /// The call.
    package var item: Item
    /// The tokens.
    package var tokens: Range<Int>
    /// The piece's place among the call's pieces.
    package var index: Int
    /// How many pieces the call has; the same for each of them.
    package var count: Int
    /// When the call's wait for a worker began.
    package var since: ContinuousClock.Instant
  }

  private struct Entry {
    var item: Item
    var work: Work
    var nextToken = 0
    var nextPiece = 0
    /// Decided when the first piece is handed out.
    var pieceTokens = 0
    var pieces = 1
  }

  /// A principal's calls; numbers without an entry have been removed.
  private struct Line {
    var resumed = Deque<UInt64>()
    var waiting = Deque<UInt64>()
    /// Tokens left of the principal's turn; nil while it awaits its turn, which `debt` then shortens.
    var credit: Int?
    var debt = 0
    /// Tokens of its calls that wait, the rest of one that has been started included.
    var tokens = 0
  }

  /// Pieces start at multiples of this, so that sums over blocks of this many tokens do not depend on
  /// the split.
  package static var blockTokens: Int { 32 }

  private let batchTokensMax: Int
  private let batchBytesMax: Int
  private let pieceTokensMin: Int
  private var entries: [UInt64: Entry] = [:]
  private var lines: [UInt64: Line] = [:]
  /// Principals with a line, the next in turn first.
  private var turns: [UInt64] = []
  private var deadlines = DeadlineQueue()
  private var startedRequests = 0
  /// Tokens of calls that wait, the rest of a call that has been started included.
  package private(set) var waitingTokens = 0

  /// Nothing to do yet.
  package init(batchTokensMax: Int, batchBytesMax: Int, pieceTokensMin: Int) {
    self.batchTokensMax = max(batchTokensMax / Self.blockTokens, 1) * Self.blockTokens
    self.batchBytesMax = batchBytesMax
    self.pieceTokensMin = max(pieceTokensMin, 1)
  }

  /// Calls of which no piece has been handed out.
  package var waitingRequests: Int { entries.count - startedRequests }

  /// Tokens of a principal's calls that wait.
  package func waitingTokens(of principal: UInt64) -> Int { lines[principal]?.tokens ?? 0 }

  /// Tokens that are handed out before the last of `tokens` which a principal would add now, its own
  /// waiting tokens included: at most those that wait, and at most as many turns of each other
  /// principal as it needs itself.
  package func tokensAhead(of principal: UInt64, adding tokens: Int) -> Int {
    let own = waitingTokens(of: principal)
    let turns = max((own + tokens - 1) / batchTokensMax + 1, 1)
    let others = lines.count - (lines[principal] == nil ? 0 : 1)
    let (share, overflow) = (others * turns).multipliedReportingOverflow(by: batchTokensMax)
    return overflow ? waitingTokens : min(waitingTokens, own + share)
  }

  /// The first moment at which `removeExpired` will find something, or an earlier one.
  package var nextDeadline: ContinuousClock.Instant? { deadlines.first?.deadline }

  // MARK: Adding and removing

  /// Adds a call; `isResumed`: its next stage, which comes before the principal's other calls.
  package mutating func add(_ item: Item, _ work: Work, isResumed: Bool = false) {
    entries[work.serial] = Entry(item: item, work: work)
    waitingTokens += work.tokens
    if let deadline = work.deadline {
      deadlines.insert(work.serial, deadline: deadline)
      // Deadlines of calls that were computed long before their time stay behind.
      if deadlines.count > 64, deadlines.count > 2 * entries.count {
        let entries = entries
        deadlines.keep { entries[$0] != nil }
      }
    }
    if lines[work.principal] == nil { turns.append(work.principal) }
    lines[work.principal, default: Line()].tokens += work.tokens
    if isResumed {
      lines[work.principal, default: Line()].resumed.append(work.serial)
    } else {
      lines[work.principal, default: Line()].waiting.append(work.serial)
    }
  }

  /// Takes back a call of which no piece has been handed out.
  package mutating func remove(_ serial: UInt64) -> Item? {
    guard let entry = entries[serial], entry.nextPiece == 0 else { return nil }
    entries[serial] = nil
    waitingTokens -= entry.work.tokens
    lines[entry.work.principal]?.tokens -= entry.work.tokens
    forgetRemoved(entry.work.principal)
    return entry.item
  }

  /// Takes back the calls that nobody wants any more and of which no piece has been handed out.
  package mutating func removeExpired(now: ContinuousClock.Instant) -> [Item] {
    var expired: [Item] = []
    while let first = deadlines.first, first.deadline <= now {
      deadlines.removeFirst()
      // A call with several stages may be listed here more than once, always with one deadline.
      if let item = remove(first.serial) { expired.append(item) }
    }
    return expired
  }

  /// A removed call stays in its queue as a number; a caller that only adds and removes must not make
  /// the queue grow.
  private mutating func forgetRemoved(_ principal: UInt64) {
    let entries = entries
    if let count = lines[principal]?.waiting.count, count > 64, count > 2 * entries.count {
      lines[principal]?.waiting.removeAll { entries[$0] == nil }
    }
  }

  // MARK: Handing out

  /// The next batch for a worker, while `idleWorkers` others have nothing to do; empty if nothing
  /// waits.
  package mutating func nextBatch(idleWorkers: Int) -> [Piece] {
    let share = max((waitingTokens + idleWorkers) / (idleWorkers + 1), pieceTokensMin)
    let tokensMax = min(Self.wholeBlocks(share), batchTokensMax)
    var batch: [Piece] = []
    var (tokens, bytes) = (0, 0)
    var group: ObjectIdentifier?
    /// Principals whose next call belongs to another group keep their places.
    var passedOver: [UInt64] = []
    var next = 0
    while next < turns.count {
      let principal = turns[next]
      guard let serial = firstSerial(of: principal), var entry = entries[serial] else {
        lines[principal] = nil
        next += 1
        continue
      }
      guard batch.isEmpty || entry.work.group == group else {
        passedOver.append(principal)
        next += 1
        continue
      }
      let piece = Self.nextPiece(of: &entry, tokensMax: tokensMax, batchBytesMax)
      let pieceBytes = piece.tokens.count * entry.work.bytesPerToken
      guard
        batch.isEmpty
          || (tokens + piece.tokens.count <= tokensMax && bytes + pieceBytes <= batchBytesMax)
      else { break }
      group = entry.work.group
      tokens += piece.tokens.count
      bytes += pieceBytes
      batch.append(piece)
      waitingTokens -= piece.tokens.count
      if take(entry, piece.tokens.count, bytes: pieceBytes) {
        // Its turn is over.
        next += 1
        if lines[principal] != nil { turns.append(principal) }
      }
    }
    turns.replaceSubrange(0..<next, with: passedOver)
    return batch
  }

  private mutating func firstSerial(of principal: UInt64) -> UInt64? {
    while let serial = lines[principal]?.resumed.first {
      if entries[serial] != nil { return serial }
      _ = lines[principal]?.resumed.popFirst()
    }
    while let serial = lines[principal]?.waiting.first {
      if entries[serial] != nil { return serial }
      _ = lines[principal]?.waiting.popFirst()
    }
    return nil
  }

  /// The next piece of a call, with as many tokens as fit an empty batch.
  private static func nextPiece(of entry: inout Entry, tokensMax: Int, _ bytesMax: Int) -> Piece {
    let work = entry.work
    if entry.nextPiece == 0 {
      entry.pieceTokens = work.tokens
      if work.tokens > 0 {
        let fitting = bytesMax / max(work.bytesPerToken, 1) / blockTokens * blockTokens
        let most = max(min(tokensMax, fitting), blockTokens)
        let count = (work.tokens + most - 1) / most
        entry.pieceTokens = wholeBlocks((work.tokens + count - 1) / count)
        entry.pieces = (work.tokens + entry.pieceTokens - 1) / entry.pieceTokens
      }
    }
    let end = min(entry.nextToken + entry.pieceTokens, work.tokens)
    return Piece(
      item: entry.item, tokens: entry.nextToken..<end, index: entry.nextPiece, count: entry.pieces,
      since: work.since)
  }

  /// Takes a piece of `tokens` off the first call of its principal; true if that ends the principal's
  /// turn.
  private mutating func take(_ entry: Entry, _ tokens: Int, bytes: Int) -> Bool {
    var entry = entry
    let (serial, principal) = (entry.work.serial, entry.work.principal)
    guard var line = lines.removeValue(forKey: principal) else { return true }
    if entry.nextPiece == 0 { startedRequests += 1 }
    entry.nextToken += tokens
    entry.nextPiece += 1
    if entry.nextPiece == entry.pieces {
      entries[serial] = nil
      startedRequests -= 1
      if line.resumed.first == serial {
        _ = line.resumed.popFirst()
      } else {
        _ = line.waiting.popFirst()
      }
    } else {
      entries[serial] = entry
    }
    line.tokens -= tokens
    let share = min(Double(bytes) / Double(max(batchBytesMax, 1)), 1) * Double(batchTokensMax)
    let cost = min(max(tokens, Int(share), 1), batchTokensMax)
    let credit = (line.credit ?? batchTokensMax - line.debt) - cost
    line.credit = credit > 0 ? credit : nil
    line.debt = max(-credit, 0)
    let isEmpty = line.resumed.count == 0 && line.waiting.count == 0
    if !isEmpty { lines[principal] = line }
    return isEmpty || credit <= 0
  }

  private static func wholeBlocks(_ tokens: Int) -> Int {
    (tokens + blockTokens - 1) / blockTokens * blockTokens
  }
}
