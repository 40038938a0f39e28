import GranuleObjective
import Testing

@Suite("Objectives")
struct TrainingObjectiveTests {
  @Test("have the settings of their kind and no others")
  func settings() {
    let core = TrainingObjective.Core(folder: "core", latents: 3)
    let jumprelu = TrainingObjective.jumprelu(.init(.target(l0: 8), bandwidth: 0.1))
    #expect(TrainingObjective.topk(k: 4).k == 4 && TrainingObjective.topk(k: 4).core == nil)
    #expect(TrainingObjective.batchtopk(k: 4, core: core).core == core)
    #expect(jumprelu.k == nil && jumprelu.jumpReLU?.targetL0 == 8)
    #expect(TrainingObjective.relu(.init(warmUpSteps: 2)).penaltyWeight?.warmUpSteps == 2)
    #expect(TrainingObjective.Kind.allCases.map(\.hasK) == [true, true, false, false])
  }

  @Test("weigh their penalty by SAELens's default, by 1 with a target, or as given")
  func coefficients() {
    #expect(TrainingObjective.topk(k: 4).coefficient == 0)
    #expect(TrainingObjective.relu(.init()).coefficient == 1e-3)
    #expect(TrainingObjective.jumprelu(.init()).coefficient == 1e-3)
    #expect(TrainingObjective.jumprelu(.init(.target(l0: 8))).coefficient == 1)
    #expect(
      TrainingObjective.jumprelu(.init(.l0, weight: .init(coefficient: 0.3))).coefficient == 0.3)
  }

  @Test("leave BatchTopK at least a quarter of k beside a core")
  func budget() {
    let objective = StepObjective(.batchtopk(k: 8), granularities: [10])
    for (coreActive, values, isFloored) in [(0, 80, false), (30, 50, false), (75, 20, true)] {
      let budget = objective.budget(k: 8, tokens: 10, coreActive: coreActive)
      #expect(budget.values == values && budget.isFloored == isFloored)
    }
  }
}
