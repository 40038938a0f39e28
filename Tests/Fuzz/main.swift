import Foundation
import FuzzTargets

// libFuzzer around one target: `fuzz TARGET [libFuzzer's arguments]`. `fuzz list` names the
// targets; `fuzz seeds TARGET FOLDER` writes the inputs to start from.

/// libFuzzer's entry for programs that have a main of their own.
@_silgen_name("LLVMFuzzerRunDriver")
func runFuzzer(
  _ argumentCount: UnsafeMutablePointer<CInt>,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
  _ run: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// libFuzzer's library refers to this name, whoever calls what it names.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  do { _ = try chosen.run(UnsafeRawBufferPointer(start: bytes, count: count)) } catch {
    fatalError("\(chosen.name): \(error)")
  }
  return 0
}

func fail(_ message: String) -> Never {
  FileHandle.standardError.write(Data("fuzz: \(message)\n".utf8))
  exit(64)
}

func target(_ name: String) -> FuzzTarget {
  guard let target = FuzzTarget.all.first(where: { $0.name == name }) else {
    fail("no target is called \(name); there are \(FuzzTarget.all.map(\.name))")
  }
  return target
}

let words = CommandLine.arguments
guard words.count > 1 else { fail("which target? fuzz list") }
if words[1] == "list" {
  for target in FuzzTarget.all { print(target.name) }
  exit(0)
}
if words[1] == "seeds" {
  guard words.count == 4 else { fail("fuzz seeds TARGET FOLDER") }
  for (number, seed) in try target(words[2]).seeds().enumerated() {
    try Data(seed.bytes).write(to: URL(fileURLWithPath: "\(words[3])/seed-\(number)"))
  }
  exit(0)
}
let chosen = target(words[1])
var argumentCount = CommandLine.argc - 1
var arguments = CommandLine.unsafeArgv + 1
// To minimise, libFuzzer has a shell run the program again that this place names.
arguments[0] = strdup("\(words[0]) \(words[1])")
exit(runFuzzer(&argumentCount, &arguments, testOneInput))
