package import GranuleCalls
package import GranuleWire
import Synchronization

/// Packs the replies to one request into frames, on the thread that computed them.
package final class NativeSink: ReplySink {
  /// Takes a frame to the connection; `isLast`: no other frame answers the request.
  package typealias Send = @Sendable (_ frame: PackedFrame, _ isLast: Bool) -> Void

  private let requestID: UInt64
  private let frameBytesMax: Int
  /// Whether stages after the first carry only what changed.
  private let isDelta: Bool
  /// The codes of the previous stage, if stages carry changes.
  private let previous = Mutex<PackedCodes?>(nil)
  private let send: Send

  /// - Parameter frameBytesMax: the longest frame that may be sent, without its length.
  package init(
    requestID: UInt64, call: Call, frameBytesMax: Int, send: @escaping Send
  ) {
    self.requestID = requestID
    self.frameBytesMax = frameBytesMax
    isDelta = if case .encode(let request) = call { request.delta } else { false }
    self.send = send
  }

  package var replyBytesMax: Int { frameBytesMax }

  /// No product can overflow: tokens are fewer than the bytes of a frame, and the other factors fit
  /// 32 bits.
  package func bytesMax(of size: ReplySize) -> Int {
    var bytes = Response.overheadBytesMax + (size.hasErrors ? 4 * size.tokens : 0)
    if let active = size.activeLatents {
      bytes += 4 * (size.tokens + 1) + 8 * size.tokens * active
      // Latents that left since the previous stage have offsets of their own.
      if isDelta { bytes += 4 * (size.tokens + 1) + 4 * size.tokens * active }
    }
    return bytes + 4 * size.tokens * (size.reconstructionWidth ?? 0)
  }

  package func pack(_ reply: Reply, isLast: Bool) throws(ServerError) -> PackedReply {
    let frame = Response(id: requestID, last: isLast, result: .success(body(of: reply))).packed()
    guard frame.count - FrameDecoder.headerBytes <= frameBytesMax else {
      throw ServerError(
        .resourceExhausted,
        "the response takes \(frame.count) bytes, the limit is \(frameBytesMax): send fewer tokens")
    }
    return PackedReply { [send] in send(frame, isLast) }
  }

  package func pack(_ error: ServerError) -> PackedReply {
    let frame = Response(id: requestID, result: .failure(error)).packed()
    return PackedReply { [send] in send(frame, true) }
  }

  private func body(of reply: Reply) -> Response.Body {
    guard case .encoded(let stage) = reply else { return Response.Body(reply) }
    var response = EncodeResponse(stage)
    if isDelta, let codes = response.codes {
      let before = previous.withLock { previous in
        defer { previous = codes }
        return previous
      }
      if let before {
        let difference = codes.difference(from: before)
        response.codes = difference.changed
        response.removed = difference.removed
      }
    }
    return .encode(response)
  }
}

extension Response.Body {
  /// A reply as a message, with whole codes.
  package init(_ reply: Reply) {
    self =
      switch reply {
      case .encoded(let stage): .encode(EncodeResponse(stage))
      case .decoded(let response): .decode(response)
      case .models(let models): .listModels(models)
      case .status(let status): .status(status)
      case .model(let model): .model(model)
      }
  }
}

extension EncodeResponse {
  /// A stage as a message; its pieces are copied once, into one.
  fileprivate init(_ stage: EncodedStage) {
    self.init(
      model: stage.model, version: stage.version, granularity: UInt32(stage.granularity),
      k: UInt32(stage.k), codes: stage.pieces.map { PackedCodes(joining: $0) },
      reconstruction: stage.reconstruction, fvu: stage.fvu, squaredErrors: stage.squaredErrors,
      stopReason: stage.stopReason, queueNanoseconds: stage.queueNanoseconds,
      computeNanoseconds: stage.computeNanoseconds)
  }
}
