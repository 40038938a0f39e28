internal import Glibc
internal import Synchronization

/// Threads that live as long as the pool, and wait for work of a few microseconds and more: awake
/// for a moment after each call, then asleep.
public final class ThreadPool: Sendable {
  /// Number of threads, the caller's included.
  public let threads: Int
  private let shared: Shared

  /// A pool of `threads` threads; nil: one a core.
  public init(threads: Int? = nil) {
    self.threads = max(1, threads ?? Parallel.threads)
    shared = Shared()
    for number in 1..<self.threads {
      // The thread holds what it waits on, never the pool, so that the pool can end it.
      let shared = shared
      let start = Unmanaged.passRetained(Start(shared: shared, number: number))
      var thread = pthread_t()
      let failure = pthread_create(
        &thread, nil,
        { raw in
          let start = Unmanaged<Start>.fromOpaque(raw!).takeRetainedValue()
          start.shared.work(number: start.number)
          return nil
        }, start.toOpaque())
      precondition(failure == 0, "no thread: \(String(cString: strerror(failure)))")
      pthread_detach(thread)
    }
  }

  deinit { shared.end() }

  /// Calls `body` once on each thread with its number, the caller's is 0; returns when all have.
  /// One caller at a time.
  public func run(_ body: (_ thread: Int) -> Void) {
    guard threads > 1 else { return body(0) }
    withoutActuallyEscaping(body) { body in
      // Safe although the compiler cannot see it: all calls have returned before this does.
      nonisolated(unsafe) let body = body
      shared.start(threads: threads) { body($0) }
      body(0)
      shared.waitUntilDone()
    }
  }

  private final class Start {
    let shared: Shared
    let number: Int

    init(shared: Shared, number: Int) {
      self.shared = shared
      self.number = number
    }
  }

  /// What the pool and its threads share.
  private final class Shared: @unchecked Sendable {
    // Unchecked: `body` is written before `round` is released and read after it is acquired.

    private let round = Atomic(0)
    private let running = Atomic(0)
    private let isEnding = Atomic(false)
    private var body: (@Sendable (Int) -> Void)?
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
      pthread_mutex_init(mutex, nil)
      pthread_cond_init(condition, nil)
    }

    deinit {
      pthread_cond_destroy(condition)
      pthread_mutex_destroy(mutex)
      condition.deallocate()
      mutex.deallocate()
    }

    func start(threads: Int, _ body: @escaping @Sendable (Int) -> Void) {
      self.body = body
      running.store(threads - 1, ordering: .relaxed)
      wake { round.wrappingAdd(1, ordering: .releasing) }
    }

    func end() {
      wake {
        isEnding.store(true, ordering: .relaxed)
        round.wrappingAdd(1, ordering: .releasing)
      }
    }

    func waitUntilDone() {
      var spins = 0
      while running.load(ordering: .acquiring) > 0 {
        spins += 1
        if spins > Self.spinsMax { sched_yield() }
      }
      body = nil
    }

    func work(number: Int) {
      var seen = 0
      while true {
        seen = next(after: seen)
        if isEnding.load(ordering: .relaxed) { return }
        body!(number)
        running.wrappingSubtract(1, ordering: .releasing)
      }
    }

    /// About 50 µs.
    private static let spinsMax = 20_000

    private func next(after seen: Int) -> Int {
      for _ in 0..<Self.spinsMax {
        let now = round.load(ordering: .acquiring)
        if now != seen { return now }
      }
      pthread_mutex_lock(mutex)
      defer { pthread_mutex_unlock(mutex) }
      while round.load(ordering: .acquiring) == seen { pthread_cond_wait(condition, mutex) }
      return round.load(ordering: .acquiring)
    }

    private func wake(_ change: () -> Void) {
      // Under the lock, so that no thread misses it between its look and its sleep.
      pthread_mutex_lock(mutex)
      change()
      pthread_cond_broadcast(condition)
      pthread_mutex_unlock(mutex)
    }
  }
}
