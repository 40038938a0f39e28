import CSched
import Glibc
import GranuleThreads
import Synchronization
import Testing

@Suite("Threads")
struct ThreadsTests {
  @Test("ranges and blocks cover everything once, whatever the number of threads", arguments: 0...4)
  func cover(threads: Int) {
    let parallel = Parallel(threads: threads)
    #expect(parallel.threads == max(1, threads))
    for count in [0, 1, 2, 7, 100] {
      for size in [0, 1, 3, 100] {
        let seen = Mutex([Int](repeating: 0, count: count))
        func visit(_ thread: Int, _ range: Range<Int>) {
          #expect((0..<parallel.threads).contains(thread))
          seen.withLock { seen in for i in range { seen[i] += 1 } }
        }
        if size == 0 {
          parallel.forRanges(count, visit)
        } else {
          parallel.forBlocks(count, size: size, visit)
        }
        #expect(seen.withLock { $0.allSatisfy { $0 == 1 } })
      }
    }
  }

  @Test("no two blocks have the same thread at a time")
  func exclusive() {
    let parallel = Parallel(threads: 3)
    let busy = (0..<3).map { _ in Flag() }
    parallel.forBlocks(300, size: 1) { thread, _ in
      #expect(busy[thread].value.exchange(true, ordering: .acquiringAndReleasing) == false)
      sched_yield()
      busy[thread].value.store(false, ordering: .releasing)
    }
  }

  private final class Flag: Sendable { let value = Atomic(false) }

  @Test("the cores available are those that the process may run on")
  func affinity() throws {
    #expect((1...Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))).contains(Parallel.available))
    let answer = Handover<(before: Int, after: Int)>()
    // Of one thread alone, which ends.
    let thread = try WorkerThread(name: "pinned") {
      let before = Parallel.available
      var set = [UInt8](repeating: 0, count: 1024)
      _ = sched_cores_of_thread(0, set.count, &set)
      let first = set.firstIndex { $0 != 0 } ?? 0
      let bit = set[first] & ~(set[first] &- 1)
      set = set.indices.map { $0 == first ? bit : 0 }
      _ = sched_set_cores_of_thread(0, set.count, set)
      answer.give((before, Parallel.available))
    }
    let (before, after) = answer.take()
    thread.join()
    #expect(before >= 1 && after == 1)
  }

  @Test("a waiting thread sees each change, and what it waited for")
  func monitor() throws {
    let monitor = Monitor<[Int]>([])
    let consumer = Handover<Int>()
    let thread = try WorkerThread(name: "consumer") {
      var sum = 0
      for _ in 0..<1000 {
        sum += monitor.wait { $0.isEmpty ? nil : $0.removeFirst() }
      }
      consumer.give(sum)
    }
    for number in 0..<1000 { monitor.change { $0.append(number) } }
    #expect(consumer.take() == 499_500)
    thread.join()
    #expect(monitor.read { $0.isEmpty })
  }

  @Test("of two values handed over the first counts")
  func handover() {
    let handover = Handover<Int>()
    handover.give(1)
    handover.give(2)
    #expect(handover.take() == 1)
  }
}
