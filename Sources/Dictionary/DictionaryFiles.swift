internal import Glibc
public import GranuleFiles
internal import GranuleTensors

/// The files of one dictionary, in memory: those of a folder that SAELens loads, and one of our own.
public struct DictionaryFiles: Sendable {
  /// `cfg.json`: architecture, sizes, `metadata`.
  public static let configName = "cfg.json"
  /// `sae_weights.safetensors`
  public static let weightsName = "sae_weights.safetensors"
  /// `granule.safetensors`: data that SAELens has no place for.
  public static let companionName = "granule.safetensors"
  /// Every name that a dictionary folder may hold and a published version keeps. SAELens's
  /// `sparsity.safetensors` (log10 firing rates) is carried along unread.
  public static let names = [configName, weightsName, companionName, "sparsity.safetensors"]
  /// The names of the files that are read.
  public static let readNames = [configName, weightsName, companionName]
  /// The longest `cfg.json` that is read, in bytes.
  public static let configBytesMax = 16 << 20

  /// `cfg.json`
  public let config: FileBytes
  /// `sae_weights.safetensors`
  public let weights: FileBytes
  /// `granule.safetensors`, nil if there is none.
  public let companion: FileBytes?

  /// Files that were read already, say from a published version.
  public init(config: FileBytes, weights: FileBytes, companion: FileBytes?) {
    self.config = config
    self.weights = weights
    self.companion = companion
  }

  /// Reads a dictionary folder into memory.
  ///
  /// - Throws: `FileError` that names the file which is missing or unreadable.
  public init(folder: String) throws(FileError) {
    config = try FileBytes.read(
      "\(folder)/\(Self.configName)", byteCountMax: Self.configBytesMax)
    weights = try FileBytes.read("\(folder)/\(Self.weightsName)")
    let companionPath = "\(folder)/\(Self.companionName)"
    companion = access(companionPath, F_OK) == 0 ? try FileBytes.read(companionPath) : nil
  }
}
