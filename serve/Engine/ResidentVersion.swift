import GranuleDictionary
import GranuleEncoder
import GranuleRepository
import GranuleWire

/// One version of a model in memory. Whoever computes with it holds it; its memory is freed with
/// the last of them.
final class ResidentVersion: Sendable {
  let version: UInt64
  let encoder: SparseEncoder
  let sha256: String
  /// Latents in its files, of which `dictionary.latents` are in memory.
  let latents: Int

  /// Prepares a dictionary that was read, on this thread alone, so that requests are computed
  /// meanwhile.
  ///
  /// - Throws: `EncodingError` if there is not enough memory.
  init(version: UInt64, _ published: PublishedDictionary) throws(EncodingError) {
    self.version = version
    encoder = try SparseEncoder(published.dictionary, threads: 1)
    sha256 = published.sha256
    latents = published.latents
  }

  /// The same version with fewer latents, in memory of its own.
  ///
  /// - Throws: `EncodingError` if there is not enough memory.
  init(truncating other: ResidentVersion, to latents: Int) throws(EncodingError) {
    version = other.version
    encoder = try SparseEncoder(other.dictionary.truncated(to: latents), threads: 1)
    sha256 = other.sha256
    self.latents = other.latents
  }

  var dictionary: SparseAutoencoder { encoder.dictionary }

  /// Runs one token through, so that the first request finds everything in place.
  ///
  /// - Throws: `EncodingError` if the dictionary cannot encode even zeros.
  func warm() throws(EncodingError) {
    _ = try encoder.encode([Float](repeating: 0, count: dictionary.dModel), in: EncodeWorkspace())
  }

  /// What to tell of it.
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
    status.hook = dictionary.provenance.hook
    status.sha256 = sha256
    return status
  }
}
