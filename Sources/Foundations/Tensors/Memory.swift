internal import Glibc

/// Questions about memory, asked before much of it is needed: Swift's own allocations end the process if
/// they fail.
public enum Memory {
  /// Whether the system would give this process `byteCount` bytes more now. It refuses beyond a limit
  /// on the address space (`ulimit -v`) and, unless it overcommits, beyond the memory that there is.
  /// More than the machine has is refused here, since a system that overcommits might grant it. The
  /// memory limit of a container is not seen.
  public static func canBeHad(_ byteCount: Int) -> Bool {
    guard byteCount > 0 else { return byteCount == 0 }
    let machine = sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))
    guard byteCount <= machine else { return false }
    let block = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let block, block != MAP_FAILED else { return false }
    munmap(block, byteCount)
    return true
  }
}
