internal import COpenBLAS
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
  /// - Throws: `TrainingError` where the eigenvalues cannot be found.
  public static func covarianceEigenvalues(
    _ dictionary: SparseAutoencoder
  ) throws(TrainingError) -> [Double] {
    SingleThreadedBLAS.use
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
      cblas_dsyrk(
        CblasRowMajor, CblasUpper, CblasTrans, blasint(dModel), blasint(count),
        1 / Double(latents), piece, blasint(dModel), 1, &covariance, blasint(dModel))
    }
    return try eigenvalues(&covariance, size: dModel).reversed().map { max($0, 0) }
  }

  /// Eigenvalues of a symmetric matrix, ascending.
  ///
  /// - Parameter matrix: [size, size], the upper triangle in rows; overwritten.
  private static func eigenvalues(
    _ matrix: inout [Double], size: Int
  ) throws(TrainingError) -> [Double] {
    var (order, failure) = (Int32(size), Int32(0))
    var result = [Double](repeating: 0, count: size)
    // Fortran reads columns where we wrote rows: the upper triangle becomes the lower.
    let (values, lower) = (CChar(UInt8(ascii: "N")), CChar(UInt8(ascii: "L")))
    var workSize: Int32 = -1
    var work = [0.0]
    // The first call only asks how much room the second needs.
    for _ in 0..<2 {
      withUnsafePointer(to: values) { values in
        withUnsafePointer(to: lower) { lower in
          dsyev_(
            values, lower, &order, &matrix, &order, &result, &work, &workSize, &failure, 1, 1)
        }
      }
      if workSize < 0 {
        workSize = Int32(work[0])
        work = [Double](repeating: 0, count: Int(workSize))
      }
    }
    guard failure == 0 else {
      throw TrainingError(
        "the eigenvalues of the decoder's covariance cannot be found (LAPACK dsyev: \(failure)): "
          + "does the decoder hold values as large as float32 takes?")
    }
    return result
  }
}
