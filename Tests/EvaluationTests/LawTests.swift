import Testing

@testable import GranuleEvaluation

@Suite("Fitted laws")
struct LawTests {
  let fixture: EvaluationFixture

  init() throws { fixture = try EvaluationFixture() }

  @Test(
    "power laws of eigenvalues, E[z²] and frequency are NumPy's",
    arguments: ["eigenvalues", "mean_squared_activations", "frequencies"].enumerated().map { $0 })
  func powerLaws(number: Int, name: String) throws {
    // In any order: the law sorts.
    let values = try fixture.values(name).reversed()
    let law = try #require(PowerLaw(Array(values), middle: EvaluationFixture.middle))
    let want = try fixture.values("power_laws")[number * 5..<number * 5 + 5].map { $0 }
    #expect([law.ranks.lowerBound, law.ranks.upperBound] == want[3...4].map { Int($0) })
    expectClose([law.exponent], [want[0]], within: 1e-9, "exponent")
    expectClose([law.coefficient], [want[1]], within: 1e-9, "coefficient")
    expectClose([law.rSquared], [want[2]], within: 1e-9, "R²")
  }

  @Test("a power law is found exactly, zeros and heads apart, and not in too few values")
  func exactPowerLaw() throws {
    var values = [Double](repeating: 0, count: 1500)
    for rank in 1...1000 { values[rank - 1] = rank < 50 ? 7 : 3 / Double(rank * rank) }
    let law = try #require(PowerLaw(values, middle: 0.06...0.9) as PowerLaw?)
    #expect(law.ranks == 60...900)
    expectClose([law.exponent, law.coefficient], [-2, 3], within: 1e-9, "law")
    expectClose([law(rank: 100)], [3e-4], within: 1e-9, "value")
    #expect(PowerLaw([3, 2], middle: 0...1) == nil)
    #expect(PowerLaw([Double](repeating: 0, count: 100)) == nil)
    #expect(PowerLaw([]) == nil)
    // Level: a line without variance to explain.
    #expect(PowerLaw([1, 1, 1, 1], middle: 0...1)?.rSquared == nil)
  }

  private func points() throws -> [ScalingLaw.Point] {
    let values = try fixture.values("scaling_points")
    return stride(from: 0, to: values.count, by: 4).map {
      ScalingLaw.Point(
        latents: Int(values[$0]), granularity: Int(values[$0 + 1]), active: values[$0 + 2],
        loss: values[$0 + 3])
    }
  }

  @Test("the scaling law's coefficients, standard errors and R² are NumPy's")
  func scalingLaw() throws {
    let law = try #require(ScalingLaw(points()))
    let expected = try fixture.values("scaling")
    expectClose(law.terms.map(\.coefficient), Array(expected[..<6]), within: 1e-8, "coefficients")
    expectClose(law.terms.map(\.standardError), Array(expected[6...]), within: 1e-8, "errors")
    expectClose(
      [law.rSquared], try fixture.values("scaling_r_squared"), within: 1e-12, "R²")
  }

  @Test("with a floor it is as SciPy's nonlinear least squares finds it")
  func floor() throws {
    let law = try #require(ScalingLaw(points())?.withFloor())
    let expected = try fixture.values("scaling_floor")
    expectClose(
      law.terms.map(\.coefficient) + law.floor.map(\.coefficient), expected, within: 1e-4,
      "coefficients")
    expectClose(
      [law.rSquared], try fixture.values("scaling_floor_r_squared"), within: 1e-9, "R²")
  }

  @Test("terms that the points cannot tell apart are left out")
  func unidentifiable() throws {
    // Every dictionary at full size only: log G is log N.
    let atFullSize = try points().filter { $0.latents == $0.granularity }
    let law = try #require(ScalingLaw(atFullSize))
    #expect(law.terms.map { $0.coefficient != nil } == [true, true, true, true, false, false])
    // One size: nothing is known of N.
    let oneSize = try points().filter { $0.latents == 4096 }
    let other = try #require(ScalingLaw(oneSize))
    #expect(other.terms.map { $0.coefficient != nil } == [true, true, false, false, true, true])
    for point in oneSize {
      #expect(abs(other(point) / point.loss - 1) < 0.1)
    }
    #expect(ScalingLaw(Array(oneSize[..<2])) == nil)
    // As many coefficients as points: exact, and without errors to state.
    let exact = try #require(ScalingLaw([0, 1, 4, 5].map { oneSize[$0] }))
    #expect(exact.terms.allSatisfy { $0.standardError == nil })
    #expect(exact.withFloor() == nil)
  }

  @Test("the frontier is what no other beats in both")
  func frontier() {
    let values = [(8.0, 0.5), (4, 0.4), (16, 0.3), (16, 0.2), (32, 0.2), (64, 0.1)]
    let frontier = SparsityFrontier(
      values.map { SparsityFrontier.Point(name: "", granularity: 1, l0: $0, fvu: $1) })
    #expect(frontier.points.map(\.l0) == [4, 8, 16, 16, 32, 64])
    #expect(
      frontier.points.map(\.isOnFrontier) == [true, false, true, false, false, true])
  }
}
