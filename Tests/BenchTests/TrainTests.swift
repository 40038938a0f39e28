import GranuleFiles
import TestSupport
import Testing

@Suite("granule-bench train", .serialized)
struct TrainTests {
  @Test("measures a step's parts, and the losses of steps")
  func parts() throws {
    func run(_ more: String...) throws -> String {
      let small = [
        "train", "--d-model", "24", "--latents", "96", "--k", "6", "--batch", "64", "--json",
      ]
      let (code, output, errors) = try CommandProcess.run(
        small + more, program: "granule-bench")
      #expect(code == 0, "\(errors)")
      return output
    }
    let rows = try #require(
      try StrictJSON.parse(run("--dead", "0,10", "--steps", "2")).elements)
    #expect(rows.compactMap { $0["dead"]?.integer } == [0, 0, 10, 10])
    #expect(rows.compactMap { $0["granularities"]?.integer } == [1, 5, 1, 5])
    #expect(rows.allSatisfy { ($0["ms"]?.number ?? 0) > 0 })
    let steps = try run("--dead", "0", "--steps", "7", "--curve", "3").split(separator: "\n")
      .map { try StrictJSON.parse(String($0)) }
    #expect(steps.compactMap { $0["step"]?.integer } == [0, 3, 6])
  }
}
