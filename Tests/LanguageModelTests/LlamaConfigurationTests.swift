import GranuleLanguageModel
import Testing

@Suite("A Llama configuration")
struct LlamaConfigurationTests {
  static let sound = LlamaConfiguration(
    blocks: 2, dModel: 8, feedForward: 16, heads: 2, keyValueHeads: 1, headDimension: 4,
    contextLength: 32, vocabulary: 64, ropeTheta: 10_000, rmsEpsilon: 1e-5, name: "tiny")

  @Test("is refused where no model can have its shape")
  func faults() {
    #expect(Self.sound.fault == nil)
    func fault(_ change: (inout LlamaConfiguration) -> Void) -> String? {
      var changed = Self.sound
      change(&changed)
      return changed.fault
    }
    #expect(fault { $0.blocks = 0 }?.contains("number of blocks") == true)
    #expect(fault { $0.vocabulary = 1 << 31 }?.contains("vocabulary") == true)
    #expect(
      fault {
        $0.heads = 3; $0.keyValueHeads = 2
      }?.contains("evenly") == true)
    #expect(fault { $0.headDimension = 5 }?.contains("odd") == true)
    #expect(fault { $0.ropeTheta = .nan }?.contains("RoPE") == true)
    #expect(fault { $0.rmsEpsilon = -1 }?.contains("epsilon") == true)
  }
}
