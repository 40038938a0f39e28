/// Writes the transpose of a [rows, columns] matrix, in tiles that stay in cache.
///
/// - Parameters:
///   - stride: from one row of the matrix to the next, in elements.
///   - resultStride: from one row of the result, [columns, rows], to the next.
func transpose(
  _ matrix: UnsafePointer<Float>, rows: Int, rowStride stride: Int, columns: Int,
  into result: UnsafeMutablePointer<Float>, rowStride resultStride: Int
) {
  let tile = 32
  for rowStart in Swift.stride(from: 0, to: rows, by: tile) {
    for columnStart in Swift.stride(from: 0, to: columns, by: tile) {
      for column in columnStart..<min(columnStart + tile, columns) {
        for row in rowStart..<min(rowStart + tile, rows) {
          result[column * resultStride + row] = matrix[row * stride + column]
        }
      }
    }
  }
}
