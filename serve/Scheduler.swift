/// Decides what is computed next; a state machine without threads, sockets or clocks.
///
/// How it works:
/// 1. each connection's requests are taken in the order of their arrival;
/// 2. connections take turns, so that one with many requests does not hold up one with few;
/// 3. a request is handed out in pieces of a bounded number of tokens, all of them before the next
///    request's;
/// 4. when nothing else waits, a request is split among the workers that are idle.
package struct Scheduler<Item> {
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
  }

  private struct Entry {
    var item: Item
    var connection: UInt64
    var tokens: Int
    var isDivisible: Bool
  }
  private struct Current {
    var entry: Entry
    var nextToken = 0
    var nextPiece = 0
    var pieceTokens: Int
    var count: Int
  }

  /// Pieces start at multiples of this, so that sums over blocks of so many tokens do not depend on
  /// the split.
  package static var blockTokens: Int { 32 }

  private let pieceTokensMax: Int
  private let pieceTokensMin: Int
  private var entries: [UInt64: Entry] = [:]
  /// Serial numbers in order of arrival; those without an entry have been removed.
  private var queues: [UInt64: FirstInFirstOut<UInt64>] = [:]
  private var turns = FirstInFirstOut<UInt64>()
  private var current: Current?
  /// Tokens of requests that wait, the rest of a request that has been started included.
  package private(set) var waitingTokens = 0

  /// Nothing to do yet.
  package init(pieceTokensMax: Int, pieceTokensMin: Int) {
    self.pieceTokensMax = max(pieceTokensMax, Self.blockTokens)
    self.pieceTokensMin = max(pieceTokensMin, 1)
  }

  /// Requests of which no piece has been handed out.
  package var waitingRequests: Int { entries.count }

  /// Adds a request under a number that no other has.
  package mutating func add(
    _ item: Item, serial: UInt64, connection: UInt64, tokens: Int, isDivisible: Bool
  ) {
    entries[serial] = Entry(
      item: item, connection: connection, tokens: tokens, isDivisible: isDivisible)
    waitingTokens += tokens
    if queues[connection] == nil { turns.append(connection) }
    queues[connection, default: FirstInFirstOut()].append(serial)
  }

  /// Takes back a request of which no piece has been handed out.
  package mutating func remove(_ serial: UInt64) -> Item? {
    guard let entry = entries.removeValue(forKey: serial) else { return nil }
    waitingTokens -= entry.tokens
    // What was removed stays in its queue as a number; a client that only adds and removes must not
    // let it grow.
    if let count = queues[entry.connection]?.count, count > 64, count > 2 * entries.count {
      let entries = entries
      queues[entry.connection]?.removeAll { entries[$0] == nil }
    }
    return entry.item
  }

  /// The next piece for a worker, while `idleWorkers` others have nothing to do.
  package mutating func next(idleWorkers: Int) -> Piece? {
    if current == nil { current = start(idleWorkers: idleWorkers) }
    guard var work = current else { return nil }
    let end = min(work.nextToken + work.pieceTokens, work.entry.tokens)
    let piece = Piece(
      item: work.entry.item, tokens: work.nextToken..<end, index: work.nextPiece, count: work.count)
    work.nextToken = end
    work.nextPiece += 1
    waitingTokens -= piece.tokens.count
    current = work.nextPiece == work.count ? nil : work
    return piece
  }

  private mutating func start(idleWorkers: Int) -> Current? {
    guard let entry = takeTurn() else { return nil }
    guard entry.isDivisible, entry.tokens > 0 else {
      return Current(entry: entry, pieceTokens: entry.tokens, count: 1)
    }
    var count = (entry.tokens + pieceTokensMax - 1) / pieceTokensMax
    if entries.isEmpty { count = max(count, min(idleWorkers + 1, entry.tokens / pieceTokensMin)) }
    let even = (entry.tokens + count - 1) / count
    let pieceTokens = (even + Self.blockTokens - 1) / Self.blockTokens * Self.blockTokens
    return Current(
      entry: entry, pieceTokens: pieceTokens,
      count: (entry.tokens + pieceTokens - 1) / pieceTokens)
  }

  /// The first request of the connection whose turn it is; the connection goes to the end of the
  /// line.
  private mutating func takeTurn() -> Entry? {
    while let connection = turns.popFirst() {
      while let serial = queues[connection]?.popFirst() {
        guard let entry = entries.removeValue(forKey: serial) else { continue }
        if queues[connection]?.count == 0 {
          queues[connection] = nil
        } else {
          turns.append(connection)
        }
        return entry
      }
      queues[connection] = nil
    }
    return nil
  }
}
