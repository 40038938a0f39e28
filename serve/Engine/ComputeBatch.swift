import GranuleEncoder
import GranuleFiles
import GranuleTensors
import GranuleWire

/// Pieces of requests that are computed together by one version of a model: encodings, each at its own
/// granularity, and decodings.
struct ComputeBatch {
  typealias Piece = Scheduler<ComputeJob>.Piece

  let pieces: [Piece]
  /// How many granularities less a request is given that allows it.
  let pressure: Int
  /// How many threads may share the work, the caller's included.
  let threads: Int

  /// The most tokens of a piece that threads share: more are worth a pass of their own.
  private static let sharedTokensMax = 64

  /// Computes every piece with the calling thread's workspace, and gives each stage that is complete
  /// to `answered`.
  func run(_ workspace: Workspace, answered: (ComputeJob, ComputeJob.Answer) -> Void) {
    var rows: [(piece: Piece, stage: ComputeJob.Stage, bytes: UnsafeRawBufferPointer)] = []
    var types: [DataType] = []
    func finish(_ piece: Piece, _ result: Result<SparseCodes?, ServerError>) {
      if let answer = piece.item.finish(piece, result, pressure: pressure) {
        answered(piece.item, answer)
      }
    }
    for piece in pieces {
      let job = piece.item
      do throws(ServerError) {
        let stage = try job.begin(piece, pressure: pressure)
        switch job.work {
        case .encode(let request, _, _, _):
          guard let stage else { preconditionFailure("encoding has stages") }
          rows.append((piece, stage, request.rows(piece.tokens)))
          types.append(request.activations.type)
        case .decode(let request, _):
          try job.decode(request, piece.tokens)
          finish(piece, .success(nil))
        }
      } catch {
        finish(piece, .failure(error))
      }
    }
    guard let version = rows.first?.piece.item.version else { return }
    let activations = workspace.float32(zip(rows, types).map { ($0.bytes, $1) })
    let inputs = zip(rows, activations).map { row, activations in
      var input = EncodeInput(
        activations: activations, granularity: row.stage.granularity,
        k: row.stage.k == 0 ? nil : row.stage.k)
      input.progress = row.piece.item.encodeProgress
      input.firstToken = row.piece.tokens.lowerBound
      return input
    }
    let isShared = rows.count == 1 && rows[0].piece.tokens.count <= Self.sharedTokensMax
    let codes = version.encoder.encode(
      inputs, in: workspace.encoding, threads: isShared ? threads : 1)
    for (place, (piece, stage, _)) in rows.enumerated() {
      switch codes[place] {
      case .success(let codes):
        piece.item.measure(codes, activations[place], piece, stage)
        finish(piece, .success(codes))
      case .failure(let error):
        finish(
          piece,
          .failure(
            ServerError(.invalidArgument, "encode: \(error.shifted(by: piece.tokens.lowerBound))")))
      }
    }
    // The jobs keep the rows alive.
    withExtendedLifetime(pieces) {}
  }
}

extension EncodeRequest {
  /// The bytes of some tokens' activations, as they arrived; they live as long as the request.
  fileprivate func rows(_ tokens: Range<Int>) -> UnsafeRawBufferPointer {
    guard !tokens.isEmpty else { return UnsafeRawBufferPointer(start: nil, count: 0) }
    let rowBytes = Int(activations.shape[1]) * activations.type.byteCount
    return activations.data.withBytes {
      UnsafeRawBufferPointer(
        rebasing: $0[tokens.lowerBound * rowBytes..<tokens.upperBound * rowBytes])
    }
  }
}

/// A compute thread's own memory.
final class Workspace {
  let encoding: EncodeWorkspace
  private var converted = FloatStorage(count: 0)

  /// Memory of a thread that up to `threads` may help.
  init(threads: Int) { encoding = EncodeWorkspace(threads: threads) }

  /// Each request's rows as float32, valid until the next call: the rows themselves where they are
  /// that already.
  func float32(_ rows: [(bytes: UnsafeRawBufferPointer, type: DataType)])
    -> [UnsafeBufferPointer<Float>]
  {
    func isReady(_ row: (bytes: UnsafeRawBufferPointer, type: DataType)) -> Bool {
      row.type == .float32
        && Int(bitPattern: row.bytes.baseAddress) % MemoryLayout<Float>.alignment == 0
    }
    let count = rows.reduce(0) { isReady($1) ? $0 : $0 + $1.bytes.count / $1.type.byteCount }
    if converted.count < count { converted = FloatStorage(count: count) }
    var target = converted.pointer
    return rows.map { row in
      if isReady(row) { return row.bytes.bindMemory(to: Float.self) }
      let elementType: ElementType =
        switch row.type {
        case .float32: .float32
        case .float16: .float16
        case .bfloat16: .bfloat16
        }
      let isConverted = convertToFloat32(row.bytes, type: elementType, into: target)
      precondition(isConverted, "every type on the wire is a floating-point type")
      defer { target += row.bytes.count / row.type.byteCount }
      return UnsafeBufferPointer(start: target, count: row.bytes.count / row.type.byteCount)
    }
  }
}
