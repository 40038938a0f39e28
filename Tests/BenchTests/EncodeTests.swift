import Foundation
import GranuleDictionary
import GranuleEncoder
import GranuleFiles
import TestSupport
import Testing

@Suite("granule-bench encode", .serialized)
struct EncodeTests {
  static let shape = ["--d-model", "48", "--latents", "1024", "--k", "16", "--repeat", "1"]

  func rows(_ arguments: [String]) throws -> [JSONValue] {
    let (code, output, errors) = try CommandProcess.run(
      ["encode", "--json"] + arguments, program: "granule-bench")
    #expect(code == 0, "\(errors)")
    return try #require(try StrictJSON.parse(output).elements)
  }

  @Test(
    "finds what sgemm and a top-k find, at every batch and granularity",
    arguments: ["gaussian", "correlated"])
  func agrees(data: String) throws {
    let rows = try rows(
      Self.shape + ["--batch", "1,7,300", "--granularities", "100,1024", "--data", data])
    #expect(
      rows.map { [$0["batch"]?.integer, $0["granularity"]?.integer, $0["k"]?.integer] } == [
        [1, 100, 2], [1, 1024, 16], [7, 100, 2], [7, 1024, 16], [300, 100, 2], [300, 1024, 16],
      ])
    for row in rows {
      #expect(row["tokens_that_differ"] == 0)
      #expect(row["tokens_checked"]?.integer ?? 0 >= 63)
      #expect(row["fallbacks"]?.integer != nil && row["survivors_per_token"] != nil)
      let (ms, dense) = (row["ms"]?.number ?? 0, row["sgemm_ms"]?.number ?? 0)
      #expect(ms > 0 && dense > 0)
      #expect(abs((row["speedup_sgemm"]?.number ?? 0) - dense / ms) < 1e-6 * dense / ms)
    }
    // The same tokens whatever the batch, up to those that a batch of 7 leaves over.
    let sums = rows.filter { $0["granularity"] == 1024 }.compactMap { $0["value_sum"]?.number }
    #expect(sums[0] > sums[1] && sums[1] > 0.9 * sums[0])
  }

  @Test("keeps k where it is told to")
  func fixedK() throws {
    let rows = try rows(
      Self.shape + ["--batch", "4", "--granularities", "8,512", "--k-at-granularity", "fixed"])
    #expect(rows.map { $0["k"]?.integer } == [8, 16])
  }

  @Test("measures a dictionary in a folder as it does a random one")
  func dictionaryFolder() throws {
    let folder = try TemporaryFolder()
    let saved = "\(folder.path)/saved"
    let random = try rows(Self.shape + ["--batch", "16", "--data", "correlated", "--save", saved])
    let loaded = try rows([
      "--dictionary", "\(saved)/dictionary", "--activations", "\(saved)/activations.safetensors",
      "--batch", "16", "--repeat", "1",
    ])
    #expect(random.map { $0["value_sum"] } == loaded.map { $0["value_sum"] })
    let (code, table, errors) = try CommandProcess.run(
      [
        "encode", "--dictionary", "\(saved)/dictionary", "--activations",
        "\(saved)/activations.safetensors", "--batch", "16", "--repeat", "1",
      ], program: "granule-bench")
    #expect(
      code == 0 && table.contains("survivors/token") && table.contains("OpenBLAS"), "\(errors)")
  }

  @Test(
    "compares with OpenBLAS's kernels for what this CPU has, also where it does not know the CPU",
    .enabled(if: EncoderCPU.supported.contains(.avx2)))
  func openBLASKernels() throws {
    let (code, table, errors) = try CommandProcess.run(
      ["encode", "--batch", "4"] + Self.shape, program: "granule-bench")
    #expect(code == 0, "\(errors)")
    #expect(table.contains("OpenBLAS for ") && !table.contains("OpenBLAS for Prescott"))
  }

  @Test("warns where the environment slows the baseline down")
  func warning() throws {
    let (_, _, errors) = try CommandProcess.run(
      ["encode", "--json", "--batch", "4"] + Self.shape, program: "granule-bench",
      environment: ["OPENBLAS_CORETYPE": "Haswell"])
    #expect(errors.contains("OPENBLAS_CORETYPE"))
  }
}
