internal import COpenBLAS

/// LAPACK found no solution.
package struct LAPACKError: Error, CustomStringConvertible {
  /// Name of the routine, such as `dsyev`.
  package let routine: String
  /// The routine's code for what failed.
  package let code: Int

  /// `LAPACK routine: code`.
  package var description: String { "LAPACK \(routine): \(code)" }
}

extension BLAS {
  /// Eigenvalues of a symmetric matrix, ascending: [size].
  ///
  /// - Parameter matrix: [size, size], the upper triangle in rows; overwritten.
  /// - Throws: `LAPACKError` if they are not found, for example because the matrix is not finite.
  package static func symmetricEigenvalues(
    _ matrix: inout [Double], size: Int
  ) throws(LAPACKError) -> [Double] {
    precondition(matrix.count == size * size)
    var (order, failure) = (Int32(size), Int32(0))
    var result = [Double](repeating: 0, count: size)
    // The first call only asks how much room the second needs.
    var workSize: Int32 = -1
    var work = [0.0]
    for _ in 0..<2 {
      // Fortran reads columns, we wrote rows: the upper triangle becomes the lower.
      dsyev_("N", "L", &order, &matrix, &order, &result, &work, &workSize, &failure, 1, 1)
      if workSize < 0 {
        workSize = Int32(work[0])
        work = [Double](repeating: 0, count: Int(workSize))
      }
    }
    guard failure == 0 else { throw LAPACKError(routine: "dsyev", code: Int(failure)) }
    return result
  }

  /// A linear regression y ≈ Σ coefficient · column, solved by Householder's QR decomposition.
  package struct Regression {
    /// [columns]; meaningless unless the columns are independent.
    package let coefficients: [Double]
    /// Diagonal of (AᵀA)⁻¹, A being the matrix of the columns: [columns]; likewise.
    package let inverseDiagonal: [Double]
    /// Length of what each column has beside the columns before it: [columns]; right up to the first
    /// that is 0 but for rounding.
    package let restLengths: [Double]
    /// Σ (y − ŷ)²; meaningless unless the columns are independent.
    package let squaredResidual: Double
  }

  /// Fits y by columns of its length, at least one and at most as many as y has values.
  package static func regression(columns: [[Double]], _ y: [Double]) -> Regression {
    precondition(!columns.isEmpty && columns.count <= y.count)
    precondition(columns.allSatisfy { $0.count == y.count })
    let size = columns.count
    // Fortran's matrices are columns already.
    var matrix = Array(columns.joined())
    var right = y
    var (rows, count, one, failure) = (Int32(y.count), Int32(size), Int32(1), Int32(0))
    var workSize = Int32(64 * size)
    var work = [Double](repeating: 0, count: Int(workSize))
    dgels_(
      "N", &rows, &count, &one, &matrix, &rows, &right, &rows, &work, &workSize, &failure, 1)
    // Left in place are R, whose diagonal tells those lengths, and beyond the coefficients the residual.
    let restLengths = (0..<size).map { matrix[$0 * y.count + $0].magnitude }
    dpotri_("U", &count, &matrix, &rows, &failure, 1)
    return Regression(
      coefficients: Array(right.prefix(size)),
      inverseDiagonal: (0..<size).map { matrix[$0 * y.count + $0] },
      restLengths: restLengths,
      squaredResidual: right.dropFirst(size).reduce(0) { $0 + $1 * $1 })
  }
}
