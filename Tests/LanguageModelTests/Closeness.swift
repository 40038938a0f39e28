import GranuleTensors

/// The largest ‖row − expected row‖ / ‖expected row‖ over the rows.
///
/// Row by row, since the sink at position 0 has a hundred times the norm of other rows and would
/// hide them.
func worstRowError(
  _ values: some Collection<Float>, _ expected: some Collection<Double>, columns: Int
) -> Double {
  precondition(values.count == expected.count && columns > 0)
  let (values, expected) = (values.map { Double($0) }, Array(expected))
  var worst = 0.0
  for start in stride(from: 0, to: values.count, by: columns) {
    var (error, norm) = (0.0, 0.0)
    for i in start..<start + columns {
      error += (values[i] - expected[i]) * (values[i] - expected[i])
      norm += expected[i] * expected[i]
    }
    // A NaN must not get lost in max.
    let relative = error == 0 ? 0 : (error / norm).squareRoot()
    worst = relative.isNaN ? .infinity : max(worst, relative)
  }
  return worst
}

/// ‖values − expected‖ / ‖expected‖
func relativeError(_ values: some Collection<Float>, _ expected: some Collection<Double>) -> Double
{
  worstRowError(values, expected, columns: expected.count)
}
