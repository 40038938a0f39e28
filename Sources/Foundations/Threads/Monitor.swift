internal import Glibc

/// State behind a lock, and threads that wait for it to change: the one way to wait.
package final class Monitor<State>: @unchecked Sendable {
  // Safe to share: the state is only touched under the mutex.
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var state: State

  package init(_ state: State) {
    self.state = state
    pthread_mutex_init(mutex, nil)
    var attributes = pthread_condattr_t()
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(changed, &attributes)
    pthread_condattr_destroy(&attributes)
  }

  deinit {
    pthread_cond_destroy(changed)
    pthread_mutex_destroy(mutex)
    changed.deallocate()
    mutex.deallocate()
  }

  /// Changes the state, then wakes every waiting thread to look at it again.
  package func change<R, E: Error>(_ body: (inout State) throws(E) -> R) throws(E) -> R {
    pthread_mutex_lock(mutex)
    defer {
      pthread_cond_broadcast(changed)
      pthread_mutex_unlock(mutex)
    }
    return try body(&state)
  }

  /// Looks at the state.
  package func read<R, E: Error>(_ body: (State) throws(E) -> R) throws(E) -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body(state)
  }

  /// Waits until `body` returns a value. `body` may change the state, which wakes nobody.
  package func wait<R>(until body: (inout State) -> R?) -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    while true {
      if let value = body(&state) { return value }
      pthread_cond_wait(changed, mutex)
    }
  }

  /// Waits until `body` returns a value; it is asked again whenever the state changes, and at the
  /// moment that `alarm` gives.
  package func wait<R>(
    alarm: (State) -> ContinuousClock.Instant, until body: (inout State) -> R?
  ) -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    while true {
      if let value = body(&state) { return value }
      let (seconds, attoseconds) = max(ContinuousClock.now.duration(to: alarm(state)), .zero)
        .components
      var moment = timespec()
      clock_gettime(CLOCK_MONOTONIC, &moment)
      // Rounded up, and at most a day: the clock is read again then.
      let nanoseconds = moment.tv_nsec + Int(attoseconds / 1_000_000_000) + 1
      moment.tv_sec += min(Int(seconds), 86_400) + nanoseconds / 1_000_000_000
      moment.tv_nsec = nanoseconds % 1_000_000_000
      pthread_cond_timedwait(changed, mutex, &moment)
    }
  }
}
