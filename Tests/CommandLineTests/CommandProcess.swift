import Foundation
import TestSupport

/// The `granule` that was built with the tests, as a process.
final class CommandProcess {
  let process = Process()
  private let output = Pipe()
  private let errors = Pipe()

  /// Where it is: beside the tests.
  static let path = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
    .appendingPathComponent("granule").path

  /// Starts `granule` with these arguments, and these variables besides its parent's.
  init(_ arguments: [String], environment: [String: String] = [:]) throws {
    process.executableURL = URL(fileURLWithPath: Self.path)
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    process.standardOutput = output
    process.standardError = errors
    process.standardInput = FileHandle.nullDevice
    try process.run()
  }

  /// Runs to the end: exit code, standard output, standard error.
  static func run(_ arguments: String...) throws -> (code: Int32, output: String, errors: String) {
    try run(arguments)
  }

  /// Runs to the end: exit code, standard output, standard error.
  static func run(_ arguments: [String]) throws -> (code: Int32, output: String, errors: String) {
    let command = try CommandProcess(arguments)
    // What these commands print fits into a pipe, so one may be read after the other.
    let output = command.output.fileHandleForReading.readDataToEndOfFile()
    let errors = command.errors.fileHandleForReading.readDataToEndOfFile()
    command.process.waitUntilExit()
    return (
      command.process.terminationStatus, String(decoding: output, as: UTF8.self),
      String(decoding: errors, as: UTF8.self)
    )
  }

  /// Waits for the next text on standard output; empty at its end.
  func nextOutput() -> String {
    String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
  }

  /// Waits for the next text on standard error; empty at its end.
  func nextErrors() -> String {
    String(decoding: errors.fileHandleForReading.availableData, as: UTF8.self)
  }

  /// Sleeps for a time, or until the process has ended; nil waits for the end alone.
  func wait(atMost time: Duration?) throws {
    let end = time.map { ContinuousClock.now + $0 }
    try blockUntil("granule \(process.arguments?.first ?? "") has ended", within: .seconds(600)) {
      !process.isRunning || end.map { ContinuousClock.now >= $0 } ?? false
    }
  }

  /// Sends a signal and waits for the end.
  func end(_ signal: Int32) -> Int32 {
    kill(process.processIdentifier, signal)
    process.waitUntilExit()
    return process.terminationStatus
  }

  deinit {
    if process.isRunning { process.terminate() }
  }
}
