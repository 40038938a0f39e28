internal import Glibc

/// Reference files that lie beside a checkout, in `../shared/data`; tests that need them skip where
/// they are not there.
public enum SharedData {
  /// The folder, relative to this source file: it does not depend on where tests are run from.
  public static let folder: String = {
    var parts = #filePath.split(separator: "/").map(String.init)
    parts.removeLast(4)
    return "/" + (parts + ["shared", "data"]).joined(separator: "/")
  }()

  /// Whether the folder is there.
  public static let isPresent: Bool = access(folder, F_OK) == 0

  /// The path of a file or folder in it.
  public static func path(_ name: String) -> String { "\(folder)/\(name)" }
}
