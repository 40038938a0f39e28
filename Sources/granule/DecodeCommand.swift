import ArgumentParser
import GranuleClient
import GranuleTensors
import GranuleWire

/// `granule decode`: the activations that codes stand for.
struct DecodeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "decode",
    abstract: "Turn sparse codes back into activations with a server.",
    discussion: """
      Reads what `granule encode --out` writes, and writes a safetensors file with `activations` [tokens, d_model]. \
      The version that made the codes decodes them, and must be in the server's memory; codes that do not say what \
      made them are decoded by the version that serves.

      EXAMPLE
        granule decode --server 127.0.0.1:7700 --model smollm2 --codes codes.safetensors --out decoded.safetensors
      """)

  @OptionGroup var connection: ConnectionOptions
  @Option(help: "The model's name.")
  var model: String
  @Option(help: "The codes: a safetensors file with row_offsets, indices and values.")
  var codes: String
  @Option(help: "Where to write the activations.")
  var out: String
  @Option(help: "Tokens a request.")
  var batch = 256

  func validate() throws {
    guard (1...1 << 20).contains(batch) else {
      throw ValidationError("--batch: is \(batch); it must be 1 to 1048576 tokens")
    }
  }

  func run() async throws {
    let file = try CodesFile(path: codes)
    try OutputFile.requireWritable(out, "--out")
    let client = try await connection.connect()
    let tokens = file.codes.tokens
    var (rows, dModel) = ([Float](), 0)
    // 0 takes the version being served; the first answer's then decodes the rest as well.
    var version: UInt64 = 0
    if let maker = file.maker { version = try await self.version(of: maker, client) }
    var bar = ProgressBar()
    for start in stride(from: 0, to: max(tokens, 1), by: batch) {
      let range = start..<min(start + batch, tokens)
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

  /// The version in the server's memory that is what made the codes, whatever its number there.
  private func version(of maker: CodesFile.Maker, _ client: Client) async throws -> UInt64 {
    let known = try await client.listModels(timeout: .seconds(10)).first { $0.name == model }
    let resident = known?.versions.first { $0.sha256 == maker.sha256 && $0.state == .ready }
    if let resident { return resident.version }
    throw CommandError(
      "\(codes): was made by version \(maker.version) of \(maker.model), which is not in the server's "
        + "memory as \(model): load it with granule load \(model) --version \(maker.version) --beside --admin ADDRESS"
    )
  }
}
