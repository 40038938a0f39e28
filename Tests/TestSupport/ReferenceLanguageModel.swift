internal import Glibc
public import GranuleLanguageModel
internal import GranuleTensors

/// A Llama-family model written plainly, in double precision, one sequence at a time: the oracle of
/// `LanguageModel`.
public struct ReferenceLanguageModel {
  private let weights: LlamaWeights
  private var shape: LlamaConfiguration { weights.configuration }

  /// The model with these weights.
  public init(_ weights: LlamaWeights) { self.weights = weights }

  /// The residual stream before block 0, [positions][d_model].
  public func embeddings(_ tokens: [Int32]) -> [[Double]] {
    tokens.map { token in
      (0..<shape.dModel).map {
        Double(weights.tokenEmbedding.pointer[Int(token) * shape.dModel + $0])
      }
    }
  }

  /// What a block makes of the stream, with what its attention and its MLP add to it.
  public func block(
    _ number: Int, _ hidden: [[Double]]
  ) -> (hidden: [[Double]], attention: [[Double]], mlp: [[Double]]) {
    let block = weights.blocks[number]
    let head = shape.headDimension
    let normed = hidden.map { normalize($0, block.attentionNorm) }
    let queries = normed.enumerated().map { rotate(multiply(block.query, $1), position: $0) }
    let keys = normed.enumerated().map { rotate(multiply(block.key, $1), position: $0) }
    let values = normed.map { multiply(block.value, $0) }
    let attended = hidden.indices.map { position in
      (0..<shape.heads).flatMap { number -> [Double] in
        let shared = number / (shape.heads / shape.keyValueHeads)
        let scores = (0...position).map { other in
          (0..<head).reduce(0.0) {
            $0 + queries[position][number * head + $1] * keys[other][shared * head + $1]
          } / Double(head).squareRoot()
        }
        let largest = scores.max() ?? 0
        let exponentials = scores.map { exp($0 - largest) }
        let sum = exponentials.reduce(0, +)
        return (0..<head).map { i in
          (0...position).reduce(0.0) {
            $0 + exponentials[$1] / sum * values[$1][shared * head + i]
          }
        }
      }
    }
    let attention = attended.map { multiply(block.attentionOutput, $0) }
    let middle = zip(hidden, attention).map { zip($0, $1).map(+) }
    let mlp = middle.map { row -> [Double] in
      let normed = normalize(row, block.feedForwardNorm)
      let (gate, up) = (multiply(block.gate, normed), multiply(block.up, normed))
      return multiply(block.down, zip(gate, up).map { $0 / (1 + exp(-$0)) * $1 })
    }
    return (zip(middle, mlp).map { zip($0, $1).map(+) }, attention, mlp)
  }

  /// Cross-entropy of each next token, from the stream before a layer.
  public func losses(_ tokens: [Int32], _ hidden: [[Double]], before layer: Int) -> [Double] {
    var hidden = hidden
    for number in layer..<shape.blocks { hidden = block(number, hidden).hidden }
    return zip(hidden, tokens.dropFirst()).map { row, next in
      let logits = multiply(weights.output, normalize(row, weights.outputNorm))
      let largest = logits.max() ?? 0
      return largest + log(logits.reduce(0) { $0 + exp($1 - largest) }) - logits[Int(next)]
    }
  }

  private func normalize(_ row: [Double], _ weight: FloatStorage) -> [Double] {
    let square = row.reduce(0) { $0 + $1 * $1 } / Double(row.count)
    let inverse = 1 / (square + Double(shape.rmsEpsilon)).squareRoot()
    return row.indices.map { row[$0] * inverse * Double(weight.pointer[$0]) }
  }

  private func multiply(_ weight: FloatStorage, _ input: [Double]) -> [Double] {
    (0..<weight.count / input.count).map { output in
      input.indices.reduce(0.0) {
        $0 + Double(weight.pointer[output * input.count + $1]) * input[$1]
      }
    }
  }

  private func rotate(_ row: [Double], position: Int) -> [Double] {
    var result = row
    for first in stride(from: 0, to: row.count, by: 2) {
      let power = Double(first % shape.headDimension) / Double(shape.headDimension)
      let angle = Double(position) * pow(shape.ropeTheta, -power)
      result[first] = row[first] * cos(angle) - row[first + 1] * sin(angle)
      result[first + 1] = row[first] * sin(angle) + row[first + 1] * cos(angle)
    }
    return result
  }
}
