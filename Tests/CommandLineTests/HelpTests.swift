import ArgumentParser
import Foundation
import GranuleCommand
import GranuleFiles
import TestSupport
import Testing

/// The help of every command.
@Suite("Help", .serialized)
struct HelpTests {
  static let commands = Granule.configuration.subcommands.filter { $0.configuration.shouldDisplay }

  static func name(_ command: any ParsableCommand.Type) -> String {
    command.configuration.commandName ?? ""
  }

  /// The examples of a command, as its help shows them in 80 columns.
  static func examples(of command: String) throws -> [[String]] {
    let type = try #require(commands.first { name($0) == command })
    return HelpExamples.read(from: Granule.helpMessage(for: type, columns: 80))
  }

  @Test(
    "has examples of the command itself, which fit a terminal and which the parser accepts",
    arguments: commands.map(name))
  func parses(command: String) throws {
    let examples = try Self.examples(of: command)
    #expect(examples.contains { $0.starts(with: ["granule", command]) })
    for example in examples {
      #expect(example.first == "granule", "a line that wraps begins with no program: \(example)")
      #expect(throws: Never.self, "\(example.joined(separator: " "))") {
        try Granule.parseAsRoot(Array(example.dropFirst()))
      }
    }
  }

  @Test("describes every command and option in a sentence that stands alone")
  func describes() throws {
    let (_, output, _) = try CommandProcess.run("--experimental-dump-help")
    let root = try #require(try StrictJSON.parse(output)["command"])
    for command in try #require(root["subcommands"]?.elements)
    where command["shouldDisplay"] == true && command["commandName"] != "help" {
      let name = command["commandName"]?.string ?? ""
      for item in [command] + (command["arguments"]?.elements ?? []) {
        let text = try #require(item["abstract"]?.string, "\(name): \(item)")
        #expect(text.first?.isUppercase == true && text.hasSuffix("."), "\(name): \(text)")
        for start in ["Of ", "By ", "That ", "Where ", "What ", "Which ", "How ", "Another"] {
          #expect(!text.hasPrefix(start), "\(name): \(text)")
        }
      }
    }
  }

  @Test("its examples work, one after the other, on a tiny language model")
  func works() throws {
    let fixture = try ExampleFolder()
    for command in ["harvest", "distill", "train"] { try fixture.run(examplesOf: command) }
    try fixture.addDictionaries()
    for command in ["evaluate", "import", "order", "overlap", "export", "publish", "inspect"] {
      try fixture.run(examplesOf: command)
    }
    try fixture.addVersions()
    let server = try fixture.serve()
    for command in ["encode", "decode", "status", "models", "load", "resize", "unload"] {
      try fixture.run(examplesOf: command)
    }
    #expect(server.end(SIGTERM) == 0)
    #expect(fixture.commands.isSuperset(of: Self.commands.map(Self.name)))
  }
}

/// A folder with the files that the examples of all commands name, as small ones.
private final class ExampleFolder {
  private let folder: TemporaryFolder
  private var address = ""
  /// The commands whose examples were run.
  private(set) var commands: Set<String> = []

  init() throws {
    folder = try TemporaryFolder()
    // As many blocks and positions as the examples name.
    let model = TinyLlama.gguf(seed: 2, blocks: 16, contextLength: 512).bytes()
    for name in ["SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf"] {
      try Data(model).write(to: URL(fileURLWithPath: path(name)))
    }
    for (number, name) in ["books/a.txt", "a.txt", "b.txt", "held-out/a.txt"].enumerated() {
      try make((name as NSString).deletingLastPathComponent)
      try TinyLlama.text(characters: 9000, seed: UInt64(number))
        .write(toFile: path(name), atomically: false, encoding: .utf8)
    }
    let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().appendingPathComponent("InterchangeTests/Fixtures").path
    for (source, name) in [
      ("gemma_scope/params.npz", "gemma-scope/layer_12/width_16k/average_l0_82/params.npz"),
      ("sparsify_tiny/bf16", "sparsify-checkpoint/layers.10"),
      ("dictionary_learning_tiny/topk/ae.pt", "runs/ae.pt"),
      ("dictionary_learning_tiny/topk/config.json", "runs/config.json"),
    ] {
      try copy("\(fixtures)/\(source)", to: name)
    }
  }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }

  func make(_ name: String) throws {
    try FileManager.default.createDirectory(
      atPath: path(name), withIntermediateDirectories: true)
  }

  func copy(_ source: String, to name: String) throws {
    try make((name as NSString).deletingLastPathComponent)
    try FileManager.default.copyItem(
      atPath: source.hasPrefix("/") ? source : path(source), toPath: path(name))
  }

  /// Adds the dictionaries and activations that examples name and no example makes.
  func addDictionaries() throws {
    for name in ["k16", "k32", "k64", "topk"] { try copy("runs/first", to: "runs/\(name)") }
    for name in ["dictionary", "my-saelens-folder"] { try copy("runs/first/dictionary", to: name) }
    for name in ["seed-0", "seed-1"] { try copy("distilled", to: name) }
    try copy("activations/layer-10", to: "test")
    var generator = SeededGenerator(seed: 5)
    try writeNumpy(
      generator.normals(500 * TinyLlama.dModel), shape: [500, TinyLlama.dModel],
      to: path("test.npy"))
  }

  /// Publishes the later versions that examples name.
  func addVersions() throws {
    let example = try #require(try HelpTests.examples(of: "publish").first)
    for _ in 2...3 {
      let (code, _, errors) = try CommandProcess.run(
        Array(example.dropFirst()), folder: folder.path)
      #expect(code == 0, "\(errors)")
    }
  }

  func serve() throws -> CommandProcess {
    let example = try #require(try HelpTests.examples(of: "serve").first)
    let server = try CommandProcess(
      example.dropFirst().map { $0.hasPrefix("127.0.0.1:") ? "127.0.0.1:0" : $0 },
      folder: folder.path)
    let ready = server.nextOutput()
    address = String(
      try #require(ready.split(separator: " ").first { $0.hasPrefix("127.0.0.1:") }, "\(ready)"))
    commands.insert("serve")
    return server
  }

  func run(examplesOf command: String) throws {
    for example in try HelpTests.examples(of: command) {
      let arguments = small(Array(example.dropFirst()))
      let (code, _, errors) = try CommandProcess.run(arguments, folder: folder.path)
      #expect(code == 0, "\(arguments.joined(separator: " ")): \(errors)")
    }
    commands.insert(command)
  }

  /// The arguments with small numbers, and the address of this server.
  private func small(_ arguments: [String]) -> [String] {
    var arguments = arguments
    for place in arguments.indices.dropFirst() {
      let value = arguments[place]
      if arguments[place - 1] == "--tokens" {
        arguments[place] = "\(min(Int(value) ?? 0, 3000))"
      } else if arguments[0] == "import", arguments[place - 1] == "--granularities" {
        arguments[place] = "16,32,64"
      } else if value.hasPrefix("127.0.0.1:") {
        arguments[place] = address
      }
    }
    return arguments
  }
}
