internal import CGranuleKernels
internal import Glibc

/// The kind of CPU that the encoder's kernels are made for. All give the same codes.
public enum EncoderCPU: String, CaseIterable, Sendable, Comparable {
  /// Any CPU.
  case portable
  /// CPUs with AVX2 and FMA.
  case avx2
  /// CPUs with AVX-512 and VNNI.
  case avx512

  /// The kinds that this machine can run, ascending.
  public static let supported = allCases.filter { gk_cpu_supports($0.kernels) != 0 }

  /// The fastest supported kind, unless the environment's GRANULE_CPU names a slower one.
  public static let current = requested.flatMap(usable) ?? supported.last!

  /// The fault of GRANULE_CPU, nil if it is sound or not set.
  public static var complaint: String? {
    guard let requested, usable(requested) == nil else { return nil }
    let names = supported.map(\.rawValue).joined(separator: ", ")
    return "GRANULE_CPU is \(requested), this machine supports \(names)"
  }

  private static let requested = getenv("GRANULE_CPU").map { String(cString: $0) }

  private static func usable(_ name: String) -> EncoderCPU? {
    EncoderCPU(rawValue: name).flatMap { supported.contains($0) ? $0 : nil }
  }

  /// Orders kinds so that a CPU that can run one can run those before it.
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
