internal import COpenBLAS

/// Products of row-major float32 matrices on the calling thread.
enum MatrixProduct {
  /// One factor: rows that lie `stride` values apart, read as they are or transposed.
  struct Factor {
    var start: UnsafePointer<Float>
    var stride: Int
    var transposed = false

    init(_ start: UnsafePointer<Float>, stride: Int, transposed: Bool = false) {
      self.start = start
      self.stride = stride
      self.transposed = transposed
    }
  }

  /// output := left · right, or output + left · right where it accumulates.
  ///
  /// left, as read: [rows, inner]; right, as read: [inner, columns]; output: [rows, columns], rows
  /// `stride` values apart.
  static func multiply(
    _ left: Factor, _ right: Factor, rows: Int, columns: Int, inner: Int,
    into output: UnsafeMutablePointer<Float>, stride: Int, accumulating: Bool = false
  ) {
    cblas_sgemm(
      CblasRowMajor, left.transposed ? CblasTrans : CblasNoTrans,
      right.transposed ? CblasTrans : CblasNoTrans, blasint(rows), blasint(columns),
      blasint(inner), 1, left.start, blasint(left.stride), right.start, blasint(right.stride),
      accumulating ? 1 : 0, output, blasint(stride))
  }

  /// A linear layer, output := input Wᵀ. input: [rows, inputs]; weight: [outputs, inputs];
  /// output: [rows, outputs].
  static func linear(
    _ input: UnsafePointer<Float>, _ weight: UnsafePointer<Float>, rows: Int, inputs: Int,
    outputs: Int, into output: UnsafeMutablePointer<Float>, accumulating: Bool = false
  ) {
    multiply(
      Factor(input, stride: inputs), Factor(weight, stride: inputs, transposed: true), rows: rows,
      columns: outputs, inner: inputs, into: output, stride: outputs, accumulating: accumulating)
  }

  /// Backwards through a linear layer, inputGradient := outputGradient W. Shapes as in `linear`.
  static func linearGradient(
    _ outputGradient: UnsafePointer<Float>, _ weight: UnsafePointer<Float>, rows: Int, inputs: Int,
    outputs: Int, into inputGradient: UnsafeMutablePointer<Float>, accumulating: Bool = false
  ) {
    multiply(
      Factor(outputGradient, stride: outputs), Factor(weight, stride: inputs), rows: rows,
      columns: inputs, inner: outputs, into: inputGradient, stride: inputs,
      accumulating: accumulating)
  }
}
