import ArgumentParser
import GranuleBench
import TestSupport
import Testing

@Suite("Help of granule-bench")
struct HelpTests {
  static let commands = Bench.configuration.subcommands.map { $0.configuration.commandName ?? "" }

  @Test(
    "has examples of the command itself, which fit a terminal and which the parser accepts",
    arguments: commands)
  func parses(command: String) throws {
    let type = try #require(
      Bench.configuration.subcommands.first { $0.configuration.commandName == command })
    let examples = HelpExamples.read(from: Bench.helpMessage(for: type, columns: 80))
    #expect(examples.contains { $0.starts(with: ["granule-bench", command]) })
    for example in examples {
      #expect(
        example.first == "granule-bench", "a line that wraps begins with no program: \(example)")
      #expect(throws: Never.self, "\(example.joined(separator: " "))") {
        try Bench.parseAsRoot(Array(example.dropFirst()))
      }
    }
  }

  @Test("wrong usage ends with 64 and names the option")
  func usage() throws {
    for (arguments, option) in [
      (["encode", "--latents", "64", "--k", "4"], "--d-model"),
      (["encode", "--dictionary", "d"], "--activations"),
      (["train", "--dead", "5,2"], "--dead"),
      (["serve", "--server", "unix:s", "--model", "m", "--loads", "0"], "--loads"),
    ] {
      let (code, _, errors) = try CommandProcess.run(arguments, program: "granule-bench")
      #expect(code == 64 && errors.contains(option), "\(errors)")
    }
  }
}
