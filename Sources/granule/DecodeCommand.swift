import ArgumentParser
import GranuleClient
import GranuleCommandLine
import GranuleReports
import GranuleTensors
import GranuleWire

struct DecodeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "decode",
    abstract: "Turn sparse codes back into activations with a server.",
    discussion: """
      The input is a file that `granule encode --out` wrote; the output is a safetensors file with \
      `activations` [tokens, d_model]. The version that made the codes decodes them, and must be in \
      the server's memory. If the file does not name that version, the version being served decodes \
      them.

      EXAMPLE
        granule decode --server 127.0.0.1:7700 --model smollm2 \\
          --codes codes.safetensors --out decoded.safetensors
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var request: RequestOptions
  @Option(help: "Safetensors file of the codes: row_offsets, indices and values.")
  var codes: String
  @Option(help: "Safetensors file to write the activations to.")
  var out: String

  func run() async throws {
    let file = try CodesFile(path: codes)
    try OutputFile.requireWritable(out, "--out")
    let client = try await connection.connect()
    let model = request.model
    let tokens = file.codes.tokens
    var (rows, dModel) = ([Float](), 0)
    // 0 asks for the version being served; the version of the first answer then decodes the rest.
    var version: UInt64 = 0
    if let maker = file.maker { version = try await self.version(of: maker, client) }
    let bar = ProgressBar()
    for start in stride(from: 0, to: max(tokens, 1), by: request.batch) {
      let range = start..<min(start + request.batch, tokens)
      let response = try await client.decode(
        DecodeRequest(model: model, version: version, codes: file.packed(tokens: range)))
      version = response.version
      dModel = Int(response.reconstruction.shape.last ?? 0)
      rows += response.reconstruction.data.array(of: Float.self)
      bar.update(
        fraction: Double(range.upperBound) / Double(max(tokens, 1)),
        "\(range.upperBound.grouped) tokens")
    }
    bar.finish()
    try SafetensorsWriter.write(
      [.init("activations", [tokens, dModel], FloatStorage(rows))], to: out)
    print("Decoded \(tokens.grouped) tokens by \(model), version \(version), into \(out)")
  }

  /// The version in the server's memory whose weights made the codes, whatever its number there.
  private func version(of maker: CodesFile.Maker, _ client: Client) async throws -> UInt64 {
    let model = request.model
    let known = try await client.listModels(timeout: .seconds(10)).first { $0.name == model }
    let resident = known?.versions.first { $0.sha256 == maker.sha256 && $0.state == .ready }
    if let resident { return resident.version }
    throw CommandError.refused(
      "\(codes): the codes were made by version \(maker.version) of \(maker.model), which is not in "
        + "the server's memory as \(model): load it with granule load \(model) --version "
        + "\(maker.version) --beside --admin ADDRESS")
  }
}
