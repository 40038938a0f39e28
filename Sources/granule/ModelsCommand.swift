import ArgumentParser
import GranuleClient
import GranuleCommandLine
import GranuleFiles
import GranuleReports
import GranuleWire

struct ModelsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "models",
    abstract: "List a server's models and their versions.",
    discussion: """
      EXAMPLE
        granule models --server 127.0.0.1:7700
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var result: ResultOptions

  func run() async throws {
    let models = try await connection.connect().listModels(timeout: .seconds(10))
    show(models, json: result.json)
  }
}

/// Prints models as a table with one version per line, or as JSON.
func show(_ models: [ModelStatus], json: Bool) {
  guard !json else {
    return print(StrictJSON.text(.array(models.map(\.json)), indented: true))
  }
  var table = TextTable(
    "model", "version", "state", "rule", "d_model", "latents", "resident", "MiB", "granularities")
  for model in models {
    for version in model.versions {
      let isServing = version.version == model.servingVersion
      // The sizes of a version are known once its files have been read.
      func known(_ number: Int) -> String { version.dModel == 0 ? "" : number.grouped }
      table.add(
        model.name, "\(version.version)",
        "\(version.state)" + (isServing ? model.pinned ? ", serving, pinned" : ", serving" : ""),
        version.selectionRule,
        known(Int(version.dModel)), known(Int(version.latents)),
        known(Int(version.residentLatents)), known(Int(version.residentBytes >> 20)),
        version.granularities.map { "\($0.latents)" }.joined(separator: ","))
    }
  }
  print(table.text, terminator: "")
  for model in models {
    for version in model.versions where !version.failure.isEmpty {
      print("\(model.name) version \(version.version) failed: \(version.failure)")
    }
  }
}

extension ModelStatus {
  fileprivate var json: JSONValue {
    [
      "name": .string(name), "serving_version": JSONValue(Int(clamping: servingVersion)),
      "pinned": .bool(pinned), "versions": .array(versions.map(\.json)),
    ]
  }
}

extension ModelVersionStatus {
  fileprivate var json: JSONValue {
    [
      "version": JSONValue(Int(clamping: version)), "state": .string("\(state)"),
      "failure": .string(failure), "d_model": JSONValue(Int(dModel)),
      "latents": JSONValue(Int(latents)), "resident_latents": JSONValue(Int(residentLatents)),
      "resident_bytes": JSONValue(Int(clamping: residentBytes)),
      "selection_rule": .string(selectionRule),
      "granularities": .array(
        granularities.map {
          [
            "latents": JSONValue(Int($0.latents)), "k": JSONValue(Int($0.k)),
            "l0": .real(Double($0.l0)), "fvu": .real(Double($0.fvu)),
          ]
        }),
      "language_model": .string(languageModel), "hook": .string(hook), "sha256": .string(sha256),
    ]
  }
}
