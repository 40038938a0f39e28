internal import CGranuleKernels
public import GranuleDictionary
public import GranuleTensors

/// The plain encoder: every pre-activation by the plain inner product, then a full sort. It is slow, and
/// it is the oracle of `SparseEncoder`: sets and values must be equal to the bit.
public struct ReferenceEncoder {
  private let dictionary: SparseAutoencoder

  /// An encoder of `dictionary`.
  public init(_ dictionary: SparseAutoencoder) { self.dictionary = dictionary }

  /// Encodes as `EncodingCore.encodeBatchTopK`.
  package func encodeBatchTopK(
    _ activations: [Float], granularity: Int, k: Int
  ) throws(EncodingError) -> SparseCodes {
    // With k = G all that is positive.
    let all = try encode(activations, granularity: granularity, k: granularity)
    let order = all.values.indices.sorted { (-all.values[$0], $0) < (-all.values[$1], $1) }
    let kept = Set(order.prefix(k * all.tokens))
    var codes = SparseCodes()
    for token in 0..<all.tokens {
      let positions = (Int(all.rowOffsets[token])..<Int(all.rowOffsets[token + 1]))
        .filter { kept.contains($0) }
      positions.map { all.indices[$0] }.withUnsafeBufferPointer { indices in
        positions.map { all.values[$0] }.withUnsafeBufferPointer { values in
          codes.append(indices: indices, values: values)
        }
      }
    }
    return codes
  }

  /// Encodes as `SparseEncoder.encode`.
  ///
  /// - Parameter activations: [tokens, d_model] float32, raw.
  /// - Throws: `EncodingError` of the first activation or argument that cannot be encoded.
  public func encode(
    _ activations: [Float], granularity: Int, k: Int? = nil
  ) throws(EncodingError) -> SparseCodes {
    let dModel = dictionary.dModel
    let k = try checkedK(k, granularity: granularity)
    let transform = InputTransform(dictionary)
    var codes = SparseCodes()
    var input = [Float](repeating: 0, count: dModel)
    for token in 0..<activations.count / dModel {
      let row = Array(activations[token * dModel..<(token + 1) * dModel])
      do throws(EncodingError) {
        _ = try transform.prepare(
          row, decoderBias: dictionary.decoderBias.pointer, into: &input)
      } catch {
        throw error.shifted(by: token)
      }
      let values = (0..<granularity).map { latent in
        gk_pre_activation_reference(
          dictionary.encoderWeights.pointer + latent * dModel, input, dModel,
          dictionary.encoderBias.pointer[latent])
      }
      var active: [Int]
      switch dictionary.selectionRule {
      case .topk:
        let ordered = (0..<granularity).sorted { (-values[$0], $0) < (-values[$1], $1) }
        active = ordered.prefix(k).filter { values[$0] > 0 }.sorted()
      case .threshold(let thresholds):
        active = (0..<granularity).filter { values[$0] > thresholds[$0] && values[$0] > 0 }
      case .relu: active = (0..<granularity).filter { values[$0] > 0 }
      }
      active.map { UInt32($0) }.withUnsafeBufferPointer { indices in
        active.map { values[$0] }.withUnsafeBufferPointer { values in
          codes.append(indices: indices, values: values)
        }
      }
    }
    return codes
  }

  /// k for `topk`, 0 for the other rules.
  private func checkedK(_ k: Int?, granularity: Int) throws(EncodingError) -> Int {
    guard (1...dictionary.latents).contains(granularity) else {
      throw .granularity(granularity, latents: dictionary.latents)
    }
    guard case .topk = dictionary.selectionRule else {
      guard k == nil else { throw .unexpectedK(rule: dictionary.selectionRule.name) }
      return 0
    }
    guard let k else { return dictionary.defaultK(at: granularity) }
    guard (1...granularity).contains(k) else { throw .k(k, granularity: granularity) }
    return k
  }
}
