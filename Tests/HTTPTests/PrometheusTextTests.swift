import GranuleEngine
import GranuleHTTP
import Testing

@Suite struct PrometheusTextTests {
  @Test("samples stand below their metric; buckets are cumulative; labels are escaped")
  func format() {
    var text = PrometheusText()
    text.single("a_total", .counter, "Line\none \\ two.", 3)
    text.metric("b_seconds", .histogram, "B.")
    var histogram = Histogram(bounds: [0.5, 2])
    for value in [0.25, 0.5, 1, 7] { histogram.record(value) }
    text.samples("b_seconds", ["model": "x\"y\\z\n"], histogram)
    text.metric("c", .gauge, "C.")
    text.sample("c", [:], .nan)
    text.sample("c", ["k": "v"], 1.5)
    #expect(
      text.text == #"""
        # HELP a_total Line\none \\ two.
        # TYPE a_total counter
        a_total 3
        # HELP b_seconds B.
        # TYPE b_seconds histogram
        b_seconds_bucket{model="x\"y\\z\n",le="0.5"} 2
        b_seconds_bucket{model="x\"y\\z\n",le="2"} 3
        b_seconds_bucket{model="x\"y\\z\n",le="+Inf"} 4
        b_seconds_sum{model="x\"y\\z\n"} 8.75
        b_seconds_count{model="x\"y\\z\n"} 4
        # HELP c C.
        # TYPE c gauge
        c NaN
        c{k="v"} 1.5

        """#)
  }
}
