internal import CGranuleKernels
internal import Glibc

/// For which CPU the encoder's kernels run. All give the same codes.
public enum EncoderCPU: String, CaseIterable, Sendable, Comparable {
  /// Any.
  case portable
  /// AVX2 with FMA.
  case avx2
  /// AVX-512 with VNNI.
  case avx512

  /// Those that this machine can run, ascending.
  public static let supported = allCases.filter { gk_cpu_supports($0.kernels) != 0 }

  /// The fastest supported, unless the environment's GRANULE_CPU names another that is.
  public static let current = requested.flatMap(usable) ?? supported.last!

  /// What is wrong with GRANULE_CPU, nil if nothing is.
  public static var complaint: String? {
    guard let requested, usable(requested) == nil else { return nil }
    let names = supported.map(\.rawValue).joined(separator: ", ")
    return "GRANULE_CPU is \(requested), this machine supports \(names)"
  }

  private static let requested = getenv("GRANULE_CPU").map { String(cString: $0) }

  private static func usable(_ name: String) -> EncoderCPU? {
    EncoderCPU(rawValue: name).flatMap { supported.contains($0) ? $0 : nil }
  }

  /// Those come first that every CPU has which has the later.
  public static func < (first: EncoderCPU, second: EncoderCPU) -> Bool {
    first.kernels.rawValue < second.kernels.rawValue
  }

  var kernels: gk_cpu {
    switch self {
    case .portable: gk_cpu_portable
    case .avx2: gk_cpu_avx2
    case .avx512: gk_cpu_avx512
    }
  }
}
