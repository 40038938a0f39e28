internal import Glibc
internal import GranuleBLAS

/// The language model that `scripts/fetch-model` downloads; tests that need it skip where it has
/// not been fetched.
public enum DownloadedModel {
  /// Its path, nil where it is not there.
  public static let path: String? = {
    BLAS.configure()
    func variable(_ name: String) -> String? {
      guard let value = getenv(name), value.pointee != 0 else { return nil }
      return String(cString: value)
    }
    let cache = variable("XDG_CACHE_HOME") ?? (variable("HOME") ?? "") + "/.cache"
    let path = "\(cache)/granule/SmolLM2-135M-Instruct.Q4_1.gguf"
    return access(path, R_OK) == 0 ? path : nil
  }()
}
