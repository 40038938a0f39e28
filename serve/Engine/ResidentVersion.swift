import GranuleDictionary
import GranuleEncoder
import GranuleRepository
import GranuleCalls

/// One version of a model in memory. Each call that computes with it holds it; its memory is freed
/// with the last reference.
final class ResidentVersion: Sendable {
  let version: UInt64
  let encoder: SparseEncoder
  let sha256: String
  /// Latents in its files, of which `dictionary.latents` are in memory.
  let latents: Int

  /// Prepares a dictionary on this thread alone, so that calls are computed meanwhile.
  ///
  /// - Throws: `EncodingError` if there is not enough memory.
  init(
    version: UInt64, _ dictionary: SparseAutoencoder, sha256: String, latents: Int
  ) throws(EncodingError) {
    self.version = version
    encoder = try SparseEncoder(dictionary, threads: 1)
    self.sha256 = sha256
    self.latents = latents
  }

  convenience init(
    version: UInt64, _ published: PublishedDictionary
  ) throws(EncodingError) {
    try self.init(
      version: version, published.dictionary, sha256: published.sha256, latents: published.latents)
  }

  /// The same version with fewer latents, in memory of its own.
  convenience init(truncating other: ResidentVersion, to latents: Int) throws(EncodingError) {
    try self.init(
      version: other.version, other.dictionary.truncated(to: latents), sha256: other.sha256,
      latents: other.latents)
  }

  var dictionary: SparseAutoencoder { encoder.dictionary }

  /// Encodes one token, so that the first call finds everything in place.
  ///
  /// - Throws: `EncodingError` if the dictionary cannot encode even zeros.
  func warm() throws(EncodingError) {
    _ = try encoder.encode([Float](repeating: 0, count: dictionary.dModel), in: EncodeWorkspace())
  }

  /// What to report of it.
  func status(_ state: ModelState) -> ModelVersionStatus {
    var status = ModelVersionStatus(version: version, state: state)
    status.dModel = UInt32(dictionary.dModel)
    status.latents = UInt32(latents)
    status.residentLatents = UInt32(dictionary.latents)
    status.residentBytes = UInt64(encoder.residentBytes.total)
    status.selectionRule = dictionary.selectionRule.name
    status.granularities = dictionary.granularities.map {
      CalibratedGranularity(
        latents: UInt32($0.latents), k: UInt32($0.k), l0: $0.l0 ?? 0, fvu: $0.fvu ?? 0)
    }
    status.languageModel = dictionary.provenance.languageModel
    status.hook = dictionary.provenance.hook.name
    status.sha256 = sha256
    return status
  }
}
