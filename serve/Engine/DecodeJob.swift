import GranuleCalls
import GranuleDictionary
import GranuleEncoder
import GranuleTensors

/// Turns codes back into activations, in one stage.
final class DecodeJob: Job {
  let call: AdmittedCall
  let stage: StageProgress
  let tokens: Int
  private let request: DecodeRequest
  /// x̂ of each token; pieces write ranges of their own.
  private let reconstruction: MemoryBlock

  init(_ call: AdmittedCall, _ request: DecodeRequest, tokens: Int) {
    self.call = call
    self.request = request
    self.tokens = tokens
    stage = StageProgress(since: call.arrival)
    reconstruction = MemoryBlock(
      byteCount: tokens * call.version.dictionary.dModel * MemoryLayout<Float>.size)
  }

  /// A decoded token reads a decoder row for each of its active latents: a piece that reads as much
  /// as this many batches of activations takes about as long as encoding one.
  private static let decoderBatchesPerPiece = 16

  var bytesPerToken: Int {
    let active = request.codes.indices.count / MemoryLayout<UInt32>.size
    return call.version.dictionary.dModel * MemoryLayout<Float>.size
      * max(1, active / max(tokens, 1) / Self.decoderBatchesPerPiece)
  }

  func begin(_ piece: Piece, pressure: Int) throws(ServerError) -> EncodeRows? {
    let (version, tokens) = (call.version, piece.tokens)
    let codes: SparseCodes
    do throws(ServerError) {
      codes = try request.codes.sparseCodes(tokens: tokens, latents: version.latents)
    } catch {
      throw ServerError(error.code, "decode.\(error.message)")
    }
    guard let output = reconstruction.bytes.bindMemory(to: Float.self).baseAddress else {
      return nil
    }
    do throws(DecodingError) {
      try version.encoder.decode(
        codes, into: output + tokens.lowerBound * version.dictionary.dModel)
    } catch {
      guard case .latent(let latent, let token, let latents) = error else {
        throw ServerError(.failedPrecondition, "decode: \(error)")
      }
      throw ServerError(
        .failedPrecondition,
        "decode.codes.indices: token \(tokens.lowerBound + token) names latent \(latent), of which \(latents) are resident; have the model resized"
      )
    }
    return nil
  }

  func answer(_ stage: StageProgress.Stage, pressure: Int) -> StageAnswer {
    let version = call.version
    let (queue, compute) = stage.nanoseconds(until: .now)
    return StageAnswer(
      result: .success(
        .decoded(
          DecodeResponse(
            model: request.model, version: version.version,
            reconstruction: PackedTensor(
              reconstruction, tokens: tokens, width: version.dictionary.dModel)))),
      isLast: true,
      measure: StageMeasure(
        model: request.model, method: .decode, tokens: tokens, granularityAsked: 0, granularity: 0,
        queueSeconds: Double(queue) * 1e-9, computeSeconds: Double(compute) * 1e-9))
  }
}
