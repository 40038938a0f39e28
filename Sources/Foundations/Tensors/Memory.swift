internal import Glibc

/// Whether memory can be had, asked before much of it is needed: Swift's own allocations end the
/// process where they fail.
public enum Memory {
  /// Whether the system would give this process so many bytes more now. It refuses beyond a limit
  /// on the address space (`ulimit -v`) or, where it does not overcommit, beyond what there is; a
  /// limit on the memory of a container is kept by other means. More than the machine has is refused
  /// here, since a system that overcommits might grant it.
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
