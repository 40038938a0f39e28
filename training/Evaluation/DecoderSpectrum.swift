internal import GranuleBLAS
public import GranuleDictionary
public import GranuleErrors
internal import GranuleLanguageModel
internal import GranuleTensors

/// The spectrum of a decoder: how many directions its rows use, and how evenly.
public enum DecoderSpectrum {
  /// Eigenvalues of the covariance of W_dec's rows, (1/N) Σ_j (w_j − w̄)(w_j − w̄)ᵀ, descending:
  /// [d_model]. Values below zero by rounding are 0.
  ///
  /// - Throws: `TrainingError` if the eigenvalues cannot be found.
  public static func covarianceEigenvalues(
    _ dictionary: SparseAutoencoder
  ) throws(TrainingError) -> [Double] {
    let (latents, dModel) = (dictionary.latents, dictionary.dModel)
    let weights = dictionary.decoderWeights.pointer
    var mean = [Double](repeating: 0, count: dModel)
    for latent in 0..<latents {
      for i in 0..<dModel { mean[i] += Double(weights[latent * dModel + i]) }
    }
    for i in 0..<dModel { mean[i] /= Double(latents) }
    var covariance = [Double](repeating: 0, count: dModel * dModel)
    // In float64, by pieces: a copy of the whole decoder would take twice its memory.
    let pieceRows = 512
    var piece = [Double](repeating: 0, count: pieceRows * dModel)
    for start in stride(from: 0, to: latents, by: pieceRows) {
      let count = min(pieceRows, latents - start)
      for row in 0..<count {
        for i in 0..<dModel {
          piece[row * dModel + i] = Double(weights[(start + row) * dModel + i]) - mean[i]
        }
      }
      BLAS.addOuterProducts(
        of: piece, count: count, columns: dModel, scale: 1 / Double(latents), to: &covariance)
    }
    do throws(LAPACKError) {
      return try BLAS.symmetricEigenvalues(&covariance, size: dModel).reversed().map { max($0, 0) }
    } catch {
      throw TrainingError(
        .unusable(input: "decoder"),
        "the eigenvalues of the decoder's covariance cannot be found (\(error)): "
          + "does the decoder hold values as large as float32 takes?")
    }
  }
}
