import GranuleDictionary
import GranuleFiles
import GranuleLanguageModel
import GranuleTensors
import TestSupport
import Testing

/// Against PyTorch in float32 on the same dequantised weights.
///
/// Tolerances: both sides round every sum to float32, in other orders; thirty blocks amplify that.
/// Measured: rows of hidden states 7e-6, losses 3e-5, gradients 4e-5 (a logit around 20 that is off by
/// 2e-6 of itself changes its probability by a relative 4e-5). 1e-4 leaves room for OpenBLAS on other
/// CPUs, which sums in other orders.
@Suite(
  "SmolLM2-135M",
  .enabled(if: DownloadedModel.path != nil, "scripts/fetch-model has not been run"),
  .enabled(if: SharedData.isPresent, "there is no ../shared/data beside the checkout"))
struct SmolLM2Tests {
  static let tolerance = 1e-4

  private let model: LanguageModel
  private let batch: TokenBatch
  private let golden: SafetensorsFile

  init() throws {
    let path = try #require(DownloadedModel.path)
    model = LanguageModel(try LlamaWeights(GGUFFile(path: path)))
    golden = try SafetensorsFile(
      FileBytes.map(SharedData.path("golden/smollm2_q4_1_golden.safetensors")))
    let ids = try golden.tensor("ids").integers().map { Int32($0) }
    batch = try TokenBatch([ids], for: model.configuration)
  }

  private func expected(_ name: String) throws -> [Double] {
    let storage = try golden.tensor(name).float32()
    return storage.array.map(Double.init)
  }

  private var dModel: Int { model.configuration.dModel }

  @Test("has PyTorch's hidden states, logits and losses")
  func forward() throws {
    let layers = [0, 1, 2, 10, 15, 29]
    let blocks = model.configuration.blocks
    let captured = model.activations(
      at: Set((layers + [blocks]).map { HookPoint.block($0, .residual) }), of: batch)
    for layer in layers {
      let hidden = try #require(captured[HookPoint.block(layer, .residual)])
      let error = worstRowError(hidden.array, try expected("h\(layer)"), columns: dModel)
      #expect(error < Self.tolerance, "before block \(layer)")
    }
    let final = try #require(captured[HookPoint.block(blocks, .residual)])
    let normed = model.normalized(final, rows: Array(0..<batch.rows))
    let error = worstRowError(normed.array, try expected("final_normed"), columns: dModel)
    #expect(error < Self.tolerance)

    let loss = model.nextTokenLoss(final: final, of: batch)
    let losses = try expected("ce_per_token")
    #expect(loss.crossEntropies.count == losses.count)
    // Differences of logits around 20, themselves within 1e-4 · 20.
    for (loss, expected) in zip(loss.crossEntropies, losses) {
      #expect(abs(Double(loss) - expected) < 1e-3)
    }
    #expect(abs(loss.mean - losses.reduce(0, +) / Double(losses.count)) < 1e-4)

    let logits = model.logits(final: final, rows: 0..<batch.rows)
    let best = try expected("logits_top8")
    let bestIDs = try golden.tensor("logits_top8_ids").integers()
    for row in 0..<batch.rows {
      let values = logits.pointer + row * model.configuration.vocabulary
      for place in row * 8..<row * 8 + 8 {
        #expect(abs(Double(values[bestIDs[place]]) - best[place]) < Self.tolerance * best[place])
      }
      // No other is larger than the least of them, but for rounding.
      let others = (0..<model.configuration.vocabulary).filter {
        Double(values[$0]) > best[row * 8 + 7] + 1e-3
      }
      #expect(Set(others).isSubset(of: bestIDs[row * 8..<row * 8 + 8]), "row \(row)")
    }
  }

  @Test("has PyTorch's gradients", arguments: [2, 10, 15])
  func gradient(layer: Int) throws {
    let hidden = model.residual(of: batch, before: layer)
    let (loss, gradient) = model.lossGradient(of: batch, at: hidden, before: layer)
    let name = "grad_h\(layer)_of_mean_ce"
    // As a whole: rows of tokens that hardly matter are mostly rounding.
    #expect(relativeError(gradient.array, try expected(name)) < Self.tolerance)
    let losses = try expected("ce_per_token")
    #expect(abs(loss.mean - losses.reduce(0, +) / Double(losses.count)) < 1e-4)
  }

  @Test("has PyTorch's loss and gradient with a reconstruction spliced in")
  func spliced() throws {
    let hidden = model.residual(of: batch, before: 10)
    let expectedStream = try golden.tensor("spliced_h10").float32()
    let rows = batch.replaceableRows(endTokens: [])
    let replacements = UnsafeBufferPointer(rebasing: expectedStream.values[dModel...])
    let spliced = model.splicing(replacements, at: rows, into: hidden)
    #expect(
      worstRowError(spliced.array, try expected("spliced_h10"), columns: dModel) < Self.tolerance)
    let (loss, gradient) = model.lossGradient(of: batch, at: spliced, before: 10)
    #expect(abs(loss.mean - (try expected("spliced_h10_mean_ce"))[0]) < 1e-4)
    #expect(
      relativeError(gradient.array, try expected("grad_spliced_h10_of_mean_ce")) < Self.tolerance)
  }
}
