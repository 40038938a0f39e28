import Foundation

/// What a library could change of the process that it runs in.
public struct ProcessState {
  /// Names of what is compared, each with its value as text.
  private var values: [String: String] = [:]
  /// Threads, by name.
  private let threads: [String: Int]

  /// Linux has this many signals.
  private static let signals = 1...Int32(64)

  /// The state now.
  public init() {
    for signal in Self.signals where signal != SIGKILL && signal != SIGSTOP {
      var action = sigaction()
      guard sigaction(signal, nil, &action) == 0 else { continue }
      let handler = unsafeBitCast(action.__sigaction_handler, to: UInt.self)
      values["what signal \(signal) does"] = "\(handler), flags \(action.sa_flags)"
    }
    for resource in 0..<16 {
      var limit = rlimit()
      guard getrlimit(__rlimit_resource_t(UInt32(resource)), &limit) == 0 else { continue }
      values["resource limit \(resource)"] = "\(limit.rlim_cur) of \(limit.rlim_max)"
    }
    for (name, value) in ProcessInfo.processInfo.environment {
      values["variable \(name)"] = value
    }
    var mask = sigset_t()
    pthread_sigmask(SIG_SETMASK, nil, &mask)
    values["blocked signals"] = "\(Self.signals.filter { sigismember(&mask, $0) == 1 })"
    values["working directory"] = FileManager.default.currentDirectoryPath
    values["locale"] = setlocale(LC_ALL, nil).map { String(cString: $0) }
    values["priority"] = "\(getpriority(__priority_which_t(UInt32(0)), 0))"
    let mode = umask(0)
    umask(mode)
    values["mode of new files"] = "\(mode)"
    var threads: [String: Int] = [:]
    for task in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? [] {
      let name = try? String(contentsOfFile: "/proc/self/task/\(task)/comm", encoding: .utf8)
      threads[(name ?? "").trimmingCharacters(in: .newlines), default: 0] += 1
    }
    self.threads = threads
  }

  /// What has changed since `before`, a line each; threads that have ended do not count.
  public func changes(since before: ProcessState) -> [String] {
    let names = Set(values.keys).union(before.values.keys).sorted()
    let changed = names.filter { values[$0] != before.values[$0] }.map {
      "\($0): \(values[$0] ?? "none"), it was \(before.values[$0] ?? "none")"
    }
    let more = threads.filter { $0.value > before.threads[$0.key] ?? 0 }.sorted { $0.key < $1.key }
    return changed
      + more.map { name, count in
        "threads named \(name): \(count), they were \(before.threads[name] ?? 0)"
      }
  }
}
