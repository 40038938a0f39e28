public import Foundation

/// An executable of this package, built with the tests, as a process.
public final class CommandProcess {
  /// The running program.
  public let process = Process()
  private let output = Pipe()
  private let errors = Pipe()

  /// The path of `granule`, which lies beside the tests.
  public static let path = path(of: "granule")

  /// The path of an executable of this package.
  public static func path(of program: String) -> String {
    URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
      .appendingPathComponent(program).path
  }

  /// Starts a program.
  ///
  /// - Parameters:
  ///   - environment: variables besides those of this process.
  ///   - folder: the folder to work in; nil for that of this process.
  public init(
    _ arguments: [String], program: String = "granule", environment: [String: String] = [:],
    folder: String? = nil
  ) throws {
    process.executableURL = URL(fileURLWithPath: Self.path(of: program))
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    if let folder { process.currentDirectoryURL = URL(fileURLWithPath: folder) }
    process.standardOutput = output
    process.standardError = errors
    process.standardInput = FileHandle.nullDevice
    try process.run()
  }

  /// Runs `granule` to its end: exit code, standard output, standard error.
  public static func run(
    _ arguments: String...
  ) throws -> (code: Int32, output: String, errors: String) {
    try run(arguments)
  }

  /// Runs a program to its end: exit code, standard output, standard error.
  public static func run(
    _ arguments: [String], program: String = "granule", environment: [String: String] = [:],
    folder: String? = nil
  ) throws -> (code: Int32, output: String, errors: String) {
    let command = try CommandProcess(
      arguments, program: program, environment: environment, folder: folder)
    // The output of these commands fits into a pipe, so one may be read after the other.
    let output = command.output.fileHandleForReading.readDataToEndOfFile()
    let errors = command.errors.fileHandleForReading.readDataToEndOfFile()
    command.process.waitUntilExit()
    return (
      command.process.terminationStatus, String(decoding: output, as: UTF8.self),
      String(decoding: errors, as: UTF8.self)
    )
  }

  /// Waits for the next text on standard output; empty at its end.
  public func nextOutput() -> String {
    String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
  }

  /// Waits for the next text on standard error; empty at its end.
  public func nextErrors() -> String {
    String(decoding: errors.fileHandleForReading.availableData, as: UTF8.self)
  }

  /// Sleeps for a time, or until the process has ended; nil waits for the end alone.
  public func wait(atMost time: Duration?) throws {
    let end = time.map { ContinuousClock.now + $0 }
    try blockUntil("granule \(process.arguments?.first ?? "") has ended", within: .seconds(600)) {
      !process.isRunning || end.map { ContinuousClock.now >= $0 } ?? false
    }
  }

  /// Sends a signal, waits for the end and returns the exit code or the signal.
  public func end(_ signal: Int32) -> Int32 {
    kill(process.processIdentifier, signal)
    process.waitUntilExit()
    return process.terminationStatus
  }

  deinit {
    if process.isRunning { process.terminate() }
  }
}
