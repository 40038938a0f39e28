/// Decides what is computed next; a state machine without threads, sockets or clocks.
///
/// How it works:
/// 1. each connection's requests are taken in the order of their arrival, further stages of one that
///    has been started before the others;
/// 2. connections take turns of about `batchTokensMax` tokens or `batchBytesMax` bytes, whichever is
///    less: what one takes beyond that is taken off its next turn;
/// 3. a batch is formed from whatever waits when a worker asks, from one connection after the other,
///    of requests to the same group (the same version of a model), up to bounds in tokens and bytes;
/// 4. a request that is larger than a batch is handed out in pieces; when little waits, it is shared
///    among the workers that are idle.
///
/// Fairness: when a connection's only request arrives while n connections have something waiting, at
/// most `3 * n * batchTokensMax` tokens are handed out before it, however many requests those have
/// and however large they are: a flood does not starve a trickle. Connections of one group that
/// always have something waiting are handed out the same number of tokens, to within
/// `3 * batchTokensMax`.
package struct Scheduler<Item> {
  /// What there is to know of a request.
  package struct Work {
    /// A number that no other request has.
    package var serial: UInt64
    package var connection: UInt64
    /// Requests of the same group may share a batch.
    package var group: ObjectIdentifier
    package var tokens: Int
    /// Memory that a token takes, or passes through, while it is computed.
    package var bytesPerToken: Int
    /// When its wait for a worker began.
    package var since: ContinuousClock.Instant
    /// When nobody wants the answer any more.
    package var deadline: ContinuousClock.Instant?

    package init(
      serial: UInt64, connection: UInt64, group: ObjectIdentifier, tokens: Int,
      bytesPerToken: Int = 0, since: ContinuousClock.Instant,
      deadline: ContinuousClock.Instant? = nil
    ) {
      self.serial = serial
      self.connection = connection
      self.group = group
      self.tokens = tokens
      self.bytesPerToken = bytesPerToken
      self.since = since
      self.deadline = deadline
    }
  }

  /// Some consecutive tokens of one request.
  package struct Piece {
    /// The request.
    package var item: Item
    /// Which of its tokens.
    package var tokens: Range<Int>
    /// The piece's place among the request's pieces.
    package var index: Int
    /// How many pieces the request has; the same for each of them.
    package var count: Int
    /// When the request's wait for a worker began.
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

  /// A connection's requests; numbers without an entry have been removed.
  private struct Line {
    var resumed = FirstInFirstOut<UInt64>()
    var waiting = FirstInFirstOut<UInt64>()
    /// Tokens left of its turn; nil while it awaits its turn, which `debt` then shortens.
    var credit: Int?
    var debt = 0
    /// Of its requests that wait, the rest of one that has been started included.
    var tokens = 0
  }

  /// Pieces start at multiples of this, so that sums over blocks of so many tokens do not depend on
  /// the split.
  package static var blockTokens: Int { 32 }

  private let batchTokensMax: Int
  private let batchBytesMax: Int
  private let pieceTokensMin: Int
  private var entries: [UInt64: Entry] = [:]
  private var lines: [UInt64: Line] = [:]
  /// Connections with a line, the next in turn first.
  private var turns: [UInt64] = []
  private var deadlines = DeadlineQueue()
  private var startedRequests = 0
  /// Tokens of requests that wait, the rest of a request that has been started included.
  package private(set) var waitingTokens = 0

  /// Nothing to do yet.
  package init(batchTokensMax: Int, batchBytesMax: Int, pieceTokensMin: Int) {
    self.batchTokensMax = max(batchTokensMax / Self.blockTokens, 1) * Self.blockTokens
    self.batchBytesMax = batchBytesMax
    self.pieceTokensMin = max(pieceTokensMin, 1)
  }

  /// Requests of which no piece has been handed out.
  package var waitingRequests: Int { entries.count - startedRequests }

  /// Tokens of a connection's requests that wait.
  package func waitingTokens(of connection: UInt64) -> Int { lines[connection]?.tokens ?? 0 }

  /// Tokens that are handed out before the last of `tokens` which a connection would add now, its own
  /// that wait included: no more than wait, and no more turns of each connection than it needs itself.
  package func tokensAhead(of connection: UInt64, adding tokens: Int) -> Int {
    let own = waitingTokens(of: connection)
    let turns = max((own + tokens - 1) / batchTokensMax + 1, 1)
    let others = lines.count - (lines[connection] == nil ? 0 : 1)
    let (share, overflow) = (others * turns).multipliedReportingOverflow(by: batchTokensMax)
    return overflow ? waitingTokens : min(waitingTokens, own + share)
  }

  /// The first moment at which `removeExpired` will find something, or an earlier one.
  package var nextDeadline: ContinuousClock.Instant? { deadlines.first?.deadline }

  // MARK: Adding and removing

  /// Adds a request; `isResumed`: its next stage, which comes before the connection's other
  /// requests.
  package mutating func add(_ item: Item, _ work: Work, isResumed: Bool = false) {
    entries[work.serial] = Entry(item: item, work: work)
    waitingTokens += work.tokens
    if let deadline = work.deadline {
      deadlines.insert(work.serial, deadline: deadline)
      // Those of requests that were computed long before their time stay behind.
      if deadlines.count > 64, deadlines.count > 2 * entries.count {
        let entries = entries
        deadlines.keep { entries[$0] != nil }
      }
    }
    if lines[work.connection] == nil { turns.append(work.connection) }
    lines[work.connection, default: Line()].tokens += work.tokens
    if isResumed {
      lines[work.connection, default: Line()].resumed.append(work.serial)
    } else {
      lines[work.connection, default: Line()].waiting.append(work.serial)
    }
  }

  /// Takes back a request of which no piece has been handed out.
  package mutating func remove(_ serial: UInt64) -> Item? {
    guard let entry = entries[serial], entry.nextPiece == 0 else { return nil }
    entries[serial] = nil
    waitingTokens -= entry.work.tokens
    lines[entry.work.connection]?.tokens -= entry.work.tokens
    forgetRemoved(entry.work.connection)
    return entry.item
  }

  /// Takes back the requests that nobody wants any more and of which no piece has been handed out.
  package mutating func removeExpired(now: ContinuousClock.Instant) -> [Item] {
    var expired: [Item] = []
    while let first = deadlines.first, first.deadline <= now {
      deadlines.removeFirst()
      // A request between two stages has other deadlines here, all the same.
      if let item = remove(first.serial) { expired.append(item) }
    }
    return expired
  }

  /// What was removed stays in its queue as a number; a client that only adds and removes must not
  /// let it grow.
  private mutating func forgetRemoved(_ connection: UInt64) {
    let entries = entries
    if let count = lines[connection]?.waiting.count, count > 64, count > 2 * entries.count {
      lines[connection]?.waiting.removeAll { entries[$0] == nil }
    }
  }

  // MARK: Handing out

  /// The next batch for a worker, while `idleWorkers` others have nothing to do; empty where nothing
  /// waits.
  package mutating func nextBatch(idleWorkers: Int) -> [Piece] {
    let share = max((waitingTokens + idleWorkers) / (idleWorkers + 1), pieceTokensMin)
    let tokensMax = min(Self.wholeBlocks(share), batchTokensMax)
    var batch: [Piece] = []
    var (tokens, bytes) = (0, 0)
    var group: ObjectIdentifier?
    /// Connections whose next request belongs to another group: they keep their places.
    var passedOver: [UInt64] = []
    var next = 0
    while next < turns.count {
      let connection = turns[next]
      guard let serial = firstSerial(of: connection), var entry = entries[serial] else {
        lines[connection] = nil
        next += 1
        continue
      }
      guard batch.isEmpty || entry.work.group == group else {
        passedOver.append(connection)
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
        if lines[connection] != nil { turns.append(connection) }
      }
    }
    turns.replaceSubrange(0..<next, with: passedOver)
    return batch
  }

  private mutating func firstSerial(of connection: UInt64) -> UInt64? {
    while let serial = lines[connection]?.resumed.first {
      if entries[serial] != nil { return serial }
      _ = lines[connection]?.resumed.popFirst()
    }
    while let serial = lines[connection]?.waiting.first {
      if entries[serial] != nil { return serial }
      _ = lines[connection]?.waiting.popFirst()
    }
    return nil
  }

  /// The next piece of a request, of as many tokens as fit an empty batch.
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

  /// Takes a piece of `tokens` off the first request of its connection; true where that ends the
  /// connection's turn.
  private mutating func take(_ entry: Entry, _ tokens: Int, bytes: Int) -> Bool {
    var entry = entry
    let (serial, connection) = (entry.work.serial, entry.work.connection)
    guard var line = lines.removeValue(forKey: connection) else { return true }
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
    if !isEmpty { lines[connection] = line }
    return isEmpty || credit <= 0
  }

  private static func wholeBlocks(_ tokens: Int) -> Int {
    (tokens + blockTokens - 1) / blockTokens * blockTokens
  }
}
