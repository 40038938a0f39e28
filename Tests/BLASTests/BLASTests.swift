import GranuleBLAS
import TestSupport
import Testing

/// Expected values are NumPy's, in float64.
@Suite("OpenBLAS and LAPACK")
struct BLASTests {
  init() { BLAS.configure() }

  @Test("products of every orientation are those of plain loops", arguments: [false, true])
  func products(accumulating: Bool) {
    var random = SeededGenerator(seed: 5)
    for (rows, columns, inner) in [(1, 1, 1), (3, 5, 7), (17, 33, 65), (64, 1, 100)] {
      for (isLeft, isRight) in [(false, false), (false, true), (true, false), (true, true)] {
        let (left, right) = (random.normals(rows * inner), random.normals(inner * columns))
        let start = random.normals(rows * columns)
        var single = start
        var double = start.map { Double($0) }
        BLAS.multiply(
          .init(left, stride: isLeft ? rows : inner, transposed: isLeft),
          .init(right, stride: isRight ? inner : columns, transposed: isRight),
          rows: rows, columns: columns, inner: inner, into: &single, stride: columns,
          accumulating: accumulating)
        left.map { Double($0) }.withUnsafeBufferPointer { left in
          right.map { Double($0) }.withUnsafeBufferPointer { right in
            BLAS.multiply(
              .init(left.baseAddress!, stride: isLeft ? rows : inner, transposed: isLeft),
              .init(right.baseAddress!, stride: isRight ? inner : columns, transposed: isRight),
              rows: rows, columns: columns, inner: inner, into: &double, stride: columns,
              accumulating: accumulating)
          }
        }
        for row in 0..<rows {
          for column in 0..<columns {
            var expected = accumulating ? Double(start[row * columns + column]) : 0
            for i in 0..<inner {
              expected +=
                Double(left[isLeft ? i * rows + row : row * inner + i])
                * Double(right[isRight ? column * inner + i : i * columns + column])
            }
            #expect(abs(double[row * columns + column] - expected) < 1e-12)
            #expect(abs(Double(single[row * columns + column]) - expected) < 1e-4)
          }
        }
      }
    }
  }

  @Test("sums of products are added in place")
  func sums() {
    var vector: [Float] = [10, 20]
    BLAS.addProduct(of: [1, 2, 3, 4, 5, 6], [1, 0, -1], rows: 2, columns: 3, to: &vector)
    #expect(vector == [8, 18])
    var sum: [Double] = [1, 1, 7, 1]
    BLAS.addOuterProducts(of: [1, 2, 3, 4], count: 2, columns: 2, scale: 0.5, to: &sum)
    // The lower triangle stays.
    #expect(sum == [6, 8, 7, 11])
  }

  @Test("eigenvalues of Hilbert's matrix are NumPy's")
  func eigenvalues() throws {
    let size = 5
    var matrix = (0..<size * size).map { 1 / Double($0 / size + $0 % size + 1) }
    let expected = [
      3.2879287721667084e-06, 0.0003058980401511414, 0.011407491623419655, 0.20853421861101332,
      1.5670506910982307,
    ]
    for (value, expected) in zip(try BLAS.symmetricEigenvalues(&matrix, size: size), expected) {
      #expect(abs(value - expected) < 1e-15)
    }
  }

  @Test("a regression is NumPy's, and says which columns depend on those before")
  func regression() {
    let x = [1.0, 2, 3, 4, 5, 6, 7]
    let columns = [x.map { _ in 1 }, x, x.map { $0 * $0 }]
    let fit = BLAS.regression(columns: columns, [2.1, 3.9, 6.2, 7.8, 10.1, 12.2, 13.8])
    let coefficients = [-0.014285714285726276, 2.042857142857144, -0.0071428571428571175]
    let inverse = [2.428571428571422, 0.7976190476190449, 0.011904761904761866]
    for i in 0..<3 {
      #expect(abs(fit.coefficients[i] - coefficients[i]) < 1e-13)
      #expect(abs(fit.inverseDiagonal[i] - inverse[i]) < 1e-13)
    }
    #expect(abs(fit.squaredResidual - 0.17857142857142846) < 1e-13)
    #expect(abs(fit.restLengths[0] - 7.0.squareRoot()) < 1e-13)
    let dependent = BLAS.regression(columns: [x, x.map { 3 * $0 }, x.map { _ in 1 }], x)
    #expect(dependent.restLengths[0] > 11 && dependent.restLengths[1] < 1e-13)
  }

  @Test("OpenBLAS has kernels for this CPU")
  func core() {
    #expect(!["Prescott", "Barcelona"].contains(BLAS.coreName))
  }
}
