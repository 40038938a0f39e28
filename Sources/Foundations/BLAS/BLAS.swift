internal import COpenBLAS

/// OpenBLAS: products of matrices and, in LAPACK.swift, what LAPACK solves.
///
/// The libraries of this package bring their own threads and multiply on each. They do not change the
/// process: if a program leaves OpenBLAS's own threads on, there are more threads than cores and
/// results may differ in their last bits. `configure` turns those threads off.
public enum BLAS {
  /// Sets OpenBLAS up for this process: products run on the calling thread, by kernels that suit the
  /// CPU even if OpenBLAS does not know its name.
  ///
  /// An executable calls this once, before it starts threads, because the environment is changed for a
  /// moment. Later calls do nothing.
  public static func configure() { configured }

  private static let configured: Void = {
    openblas_choose_kernels()
    openblas_set_num_threads(1)
  }()

  /// Name of the CPU whose kernels OpenBLAS chose, such as `SkylakeX`.
  package static var coreName: String { String(cString: openblas_get_corename()) }

  /// One factor of a product: rows that lie `stride` values apart, read as they are or transposed.
  package struct Factor<Element> {
    fileprivate let start: UnsafePointer<Element>
    fileprivate let stride: Int
    fileprivate let isTransposed: Bool

    package init(_ start: UnsafePointer<Element>, stride: Int, transposed: Bool = false) {
      self.start = start
      self.stride = stride
      isTransposed = transposed
    }
  }

  /// output := left · right, or output + left · right if it accumulates.
  ///
  /// left, as read: [rows, inner]; right, as read: [inner, columns]; output: [rows, columns], rows
  /// `stride` values apart.
  package static func multiply(
    _ left: Factor<Float>, _ right: Factor<Float>, rows: Int, columns: Int, inner: Int,
    into output: UnsafeMutablePointer<Float>, stride: Int, accumulating: Bool = false
  ) {
    cblas_sgemm(
      CblasRowMajor, left.isTransposed ? CblasTrans : CblasNoTrans,
      right.isTransposed ? CblasTrans : CblasNoTrans, blasint(rows), blasint(columns),
      blasint(inner), 1, left.start, blasint(left.stride), right.start, blasint(right.stride),
      accumulating ? 1 : 0, output, blasint(stride))
  }

  /// The same in float64.
  package static func multiply(
    _ left: Factor<Double>, _ right: Factor<Double>, rows: Int, columns: Int, inner: Int,
    into output: UnsafeMutablePointer<Double>, stride: Int, accumulating: Bool = false
  ) {
    cblas_dgemm(
      CblasRowMajor, left.isTransposed ? CblasTrans : CblasNoTrans,
      right.isTransposed ? CblasTrans : CblasNoTrans, blasint(rows), blasint(columns),
      blasint(inner), 1, left.start, blasint(left.stride), right.start, blasint(right.stride),
      accumulating ? 1 : 0, output, blasint(stride))
  }

  /// output += matrix · vector. matrix: [rows, columns]; vector: [columns]; output: [rows].
  package static func addProduct(
    of matrix: UnsafePointer<Float>, _ vector: UnsafePointer<Float>, rows: Int, columns: Int,
    to output: UnsafeMutablePointer<Float>
  ) {
    cblas_sgemv(
      CblasRowMajor, CblasNoTrans, blasint(rows), blasint(columns), 1, matrix, blasint(columns),
      vector, 1, 1, output, 1)
  }

  /// sum += scale · Σ rowᵀ row over the rows, in the upper triangle of `sum`.
  /// rows: [count, columns]; sum: [columns, columns].
  package static func addOuterProducts(
    of rows: UnsafePointer<Double>, count: Int, columns: Int, scale: Double,
    to sum: UnsafeMutablePointer<Double>
  ) {
    cblas_dsyrk(
      CblasRowMajor, CblasUpper, CblasTrans, blasint(columns), blasint(count), scale, rows,
      blasint(columns), 1, sum, blasint(columns))
  }
}
