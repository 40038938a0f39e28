internal import GranuleBLAS

/// Linear layers of row-major float32 matrices, on the calling thread.
enum MatrixProduct {
  /// A linear layer, output := input Wᵀ. input: [rows, inputs]; weight: [outputs, inputs];
  /// output: [rows, outputs].
  static func linear(
    _ input: UnsafePointer<Float>, _ weight: UnsafePointer<Float>, rows: Int, inputs: Int,
    outputs: Int, into output: UnsafeMutablePointer<Float>, accumulating: Bool = false
  ) {
    BLAS.multiply(
      .init(input, stride: inputs), .init(weight, stride: inputs, transposed: true), rows: rows,
      columns: outputs, inner: inputs, into: output, stride: outputs, accumulating: accumulating)
  }

  /// Backwards through a linear layer, inputGradient := outputGradient W. Shapes as in `linear`.
  static func linearGradient(
    _ outputGradient: UnsafePointer<Float>, _ weight: UnsafePointer<Float>, rows: Int, inputs: Int,
    outputs: Int, into inputGradient: UnsafeMutablePointer<Float>, accumulating: Bool = false
  ) {
    BLAS.multiply(
      .init(outputGradient, stride: outputs), .init(weight, stride: inputs), rows: rows,
      columns: inputs, inner: outputs, into: inputGradient, stride: inputs,
      accumulating: accumulating)
  }
}
