import Glibc
import GranuleThreads
import GranuleTransport
import Synchronization
import Testing

@Suite struct EventLoopTests {
  @Test("jobs from many threads all run, each thread's in order")
  func jobs() throws {
    let thread = try LoopThread(name: "test")
    let seen = Mutex<[[Int]]>([[], [], [], []])
    let posters = try (0..<4).map { poster in
      try WorkerThread(name: "poster") {
        for number in 0..<1000 {
          thread.remote.post { _ in seen.withLock { $0[poster].append(number) } }
        }
      }
    }
    for poster in posters { poster.join() }
    thread.stop()
    thread.join()
    #expect(seen.withLock { $0 } == [[Int]](repeating: Array(0..<1000), count: 4))
    #expect(!thread.remote.post { _ in })
  }

  @Test("jobs posted before the end run before the end")
  func jobsBeforeShutdown() throws {
    let loop = try EventLoop()
    let ran = Mutex(false)
    loop.remote.post { $0.shutdown() }
    loop.remote.post { _ in ran.withLock { $0 = true } }
    loop.run()
    #expect(ran.withLock { $0 })
  }

  @Test("timers run in the order of their delays, again and again where asked, not once stopped")
  func timers() throws {
    let loop = try EventLoop()
    var events: [String] = []
    let late = LoopTimer(loop: loop)
    let early = LoopTimer(loop: loop)
    let stopped = LoopTimer(loop: loop)
    let end = LoopTimer(loop: loop)
    var ticks = 0
    late.start(after: .milliseconds(20)) {
      events.append("late")
      stopped.close()
      early.start(after: .zero, every: .milliseconds(1)) {
        ticks += 1
        if ticks == 3 { early.close() }
      }
      // By then the timers that were stopped would have run.
      end.start(after: .milliseconds(40)) { loop.shutdown() }
    }
    early.start(after: .milliseconds(1)) { events.append("early") }
    stopped.start(after: .milliseconds(30)) { events.append("stopped") }
    loop.run()
    #expect(events == ["early", "late"])
    #expect(ticks == 3)
  }

  @Test("a signal reaches its watcher")
  func signals() throws {
    let loop = try EventLoop()
    var count = 0
    _ = try SignalWatcher(loop: loop, signal: SIGUSR1) {
      count += 1
      loop.shutdown()
    }
    kill(getpid(), SIGUSR1)
    loop.run()
    #expect(count == 1)
  }
}
