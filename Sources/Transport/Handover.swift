import Glibc

/// Passes one value from one thread to another, which waits for it.
public final class Handover<Value: Sendable>: @unchecked Sendable {
  // Safe to share: the value is only touched under the mutex.
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let arrived = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var value: Value?

  /// Nothing yet.
  public init() {
    pthread_mutex_init(mutex, nil)
    pthread_cond_init(arrived, nil)
  }

  deinit {
    pthread_cond_destroy(arrived)
    pthread_mutex_destroy(mutex)
    arrived.deallocate()
    mutex.deallocate()
  }

  /// Gives the value; later ones are ignored.
  public func give(_ value: Value) {
    pthread_mutex_lock(mutex)
    if self.value == nil { self.value = value }
    pthread_cond_broadcast(arrived)
    pthread_mutex_unlock(mutex)
  }

  /// Waits for the value.
  public func take() -> Value {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    while true {
      if let value { return value }
      pthread_cond_wait(arrived, mutex)
    }
  }
}
