import GranuleCalls
import GranuleEncoder
import GranuleTensors

/// Pieces of calls that are computed together by one version of a model: encodings, each at its own
/// granularity, and decodings.
struct Batch {
  let pieces: [Job.Piece]
  /// By how many granularities to cut a call that allows it.
  let pressure: Int
  /// How many threads may share the work, the caller's included.
  let threads: Int

  /// The most tokens of a piece that threads share: more are worth a pass of their own.
  private static let sharedTokensMax = 64

  /// Computes every piece with the calling thread's workspace, and gives each stage that is complete
  /// to `answered`.
  func run(_ workspace: Workspace, answered: (any Job, StageAnswer) -> Void) {
    func finish(_ piece: Job.Piece, _ failure: ServerError?) {
      if let answer = piece.item.finish(piece, failure, pressure: pressure) {
        answered(piece.item, answer)
      }
    }
    var rows: [EncodeRows] = []
    for piece in pieces {
      do throws(ServerError) {
        if let begun = try piece.item.beginIfWanted(piece, pressure: pressure) {
          rows.append(begun)
        } else {
          finish(piece, nil)
        }
      } catch {
        finish(piece, error)
      }
    }
    guard let version = rows.first?.job.call.version else { return }
    let activations = workspace.float32(rows.map { ($0.bytes, $0.type) })
    let isShared = rows.count == 1 && rows[0].piece.tokens.count <= Self.sharedTokensMax
    let codes = version.encoder.encode(
      zip(rows, activations).map { $0.job.input($0, $1) }, in: workspace.encoding,
      threads: isShared ? threads : 1)
    for (place, rows) in rows.enumerated() {
      switch codes[place] {
      case .success(let codes):
        rows.job.take(codes, of: rows, activations[place])
        finish(rows.piece, nil)
      case .failure(let error):
        let shifted = error.shifted(by: rows.piece.tokens.lowerBound)
        finish(rows.piece, ServerError(.invalidArgument, "encode: \(shifted)"))
      }
    }
    // The jobs keep the rows alive.
    withExtendedLifetime(pieces) {}
  }
}
