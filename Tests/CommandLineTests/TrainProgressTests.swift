import Foundation
import Glibc
import GranuleFiles
import TestSupport
import Testing

extension TrainTests {
  private func trainArguments(_ more: [String], out: String) -> [String] {
    arguments(["--k", "6"], tokens: 128 * 40, out: out).filter { $0 != "--json" } + more
  }

  @Test("tells loss, FVU by granularity, L0, dead latents, rate and time left in plain lines")
  func progressLines() throws {
    let (code, output, errors) = try CommandProcess.run(trainArguments([], out: "a"))
    #expect(code == 0 && output.contains("granularities 12 48 96"), "\(output)\(errors)")
    let number = "[0-9.,]+"
    let line = try #require(errors.split(separator: "\n").first).description
    let pattern =
      "^ *[0-9]+ %  step 1/40  loss \(number)  FVU (\(number)) (\(number)) (\(number))  L0 \(number)  "
      + "dead 0  \(number) tokens/s  .* left$"
    let match = try #require(
      NSRegularExpression(pattern: pattern)
        .firstMatch(in: line, range: NSRange(line.startIndex..., in: line)), "\(line)")
    // The very figures of the log, mean and all.
    let metrics = try String(contentsOfFile: path("a/metrics.jsonl"), encoding: .utf8)
    let first = try StrictJSON.parse(String(#require(metrics.split(separator: "\n").first)))
    for (group, granularity) in [(1, "12"), (2, "48"), (3, "96")] {
      let range = try #require(Range(match.range(at: group), in: line))
      let logged = try #require(first["fvu"]?[granularity]?.number)
      #expect(line[range] == String(format: "%.3f", logged))
    }
    #expect(line.contains("loss " + String(format: "%.3f", first["loss"]?.number ?? 0)))

    let (_, _, drawn) = try CommandProcess.run(
      trainArguments(["--sample-granularities", "3"], out: "b"))
    #expect(drawn.contains(" 96: 0."), "\(drawn)")
  }

  @Test("keeps to the terminal's width, whatever it is", arguments: [30, 80, 200])
  func progressInTerminal(columns: Int) throws {
    let terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY)
    try #require(terminal >= 0)
    defer { close(terminal) }
    var isLocked: Int32 = 0
    // TIOCSPTLCK and, for the other side, TIOCGPTPEER: macros that Swift does not see.
    try #require(ioctl(terminal, 0x4004_5431, &isLocked) == 0)
    let side = ioctl(terminal, 0x5441, O_RDWR | O_NOCTTY)
    try #require(side >= 0)
    var size = winsize(ws_row: 24, ws_col: UInt16(columns), ws_xpixel: 0, ws_ypixel: 0)
    try #require(ioctl(terminal, UInt(TIOCSWINSZ), &size) == 0)
    let process = Process()
    process.executableURL = URL(fileURLWithPath: CommandProcess.path)
    process.arguments = trainArguments(["--tokens", "40000"], out: "a")
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle(fileDescriptor: side, closeOnDealloc: false)
    try process.run()
    close(side)
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    // Ends with an error where nobody has the other side any more.
    while case let count = read(terminal, &buffer, buffer.count), count > 0 {
      bytes += buffer[..<count]
    }
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    let text = String(decoding: bytes, as: UTF8.self)
    #expect(text.contains("loss ") && text.contains(" tokens/s") && text.contains(" left"))
    let lines = text.replacingOccurrences(
      of: "\u{1B}\\[[0-9]*[A-Z]", with: "", options: .regularExpression
    ).split { $0.isNewline || $0 == "\r" }
    #expect(lines.allSatisfy { $0.count < columns }, "\(lines.map(\.count))")
    // Each drawing but the first begins where the one before did, and the last is cleared.
    let drawings = text.components(separatedBy: "\u{1B}[J")
    #expect(drawings.last == "")
    for drawing in drawings.dropLast() {
      let below = drawing.components(separatedBy: "\r\n").count - 1
      #expect(
        drawing.hasSuffix(below > 0 ? "\r\u{1B}[\(below)A" : "\r"), "\(drawing.debugDescription)")
    }
  }
}
