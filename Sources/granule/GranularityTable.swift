import GranuleDictionary
import GranuleFiles
import GranuleReports

extension SparseAutoencoder {
  /// The listed granularities as a table.
  var granularityTable: TextTable {
    var table = TextTable("granularity", "k", "L0", "FVU")
    for granularity in granularities {
      table.add(
        granularity.latents.grouped, granularity.k > 0 ? "\(granularity.k)" : "–",
        granularity.l0.map { Double($0).formatted(digits: 1) } ?? "–",
        granularity.fvu.map { Double($0).formatted(digits: 4) } ?? "–")
    }
    return table
  }

  /// The listed granularities as JSON.
  var granularitiesJSON: JSONValue {
    func known(_ number: Float?) -> JSONValue { number.map { JSONValue(Double($0)) } ?? .null }
    return .array(
      granularities.map {
        [
          "latents": JSONValue($0.latents), "k": JSONValue($0.k), "l0": known($0.l0),
          "fvu": known($0.fvu),
        ]
      })
  }
}
