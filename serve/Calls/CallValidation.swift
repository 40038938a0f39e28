/// The longest model name, in characters.
public let modelNameCharactersMax = 128

/// Refuses names other than `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
///
/// A name becomes part of a path: this is what keeps it inside the repository.
public func checkModelName(_ name: String, field: String) throws(ServerError) {
  func isAlphanumeric(_ unit: UInt8) -> Bool {
    switch unit {
    case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: false
    }
  }
  let units = name.utf8
  guard let first = units.first, units.count <= modelNameCharactersMax, isAlphanumeric(first),
    units.allSatisfy({ isAlphanumeric($0) || ".-_".utf8.contains($0) })
  else {
    throw ServerError(
      .invalidArgument,
      "\(field): must be 1 to \(modelNameCharactersMax) of A-Z a-z 0-9 . _ - and start with a letter or digit"
    )
  }
}

extension Call {
  /// Checks everything that needs no model; the errors name the field and the limit.
  public func validate() throws(ServerError) {
    switch self {
    case .encode(let request): try request.validate()
    case .decode(let request): try request.validate()
    case .listModels, .status: break
    case .loadModel(let name, let version, let beside):
      try checkModelName(name, field: "load_model.name")
      guard version > 0 || !beside else {
        throw ServerError(
          .invalidArgument, "load_model.version: is needed to keep one beside the one that serves")
      }
    case .unloadModel(let name, _): try checkModelName(name, field: "unload_model.name")
    case .resizeModel(let name, _): try checkModelName(name, field: "resize_model.name")
    }
  }
}

extension EncodeRequest {
  func validate() throws(ServerError) {
    try checkModelName(model, field: "encode.model")
    _ = try activations.rowsAndColumns(named: "encode.activations")
    var previous: UInt32 = 0
    for granularity in granularities {
      guard granularity > previous else {
        throw ServerError(
          .invalidArgument,
          "encode.granularities: \(granularity) after \(previous); they must be at least 1 and ascend strictly"
        )
      }
      previous = granularity
    }
    guard targetFVU.isFinite, targetFVU >= 0 else {
      throw ServerError(
        .invalidArgument, "encode.target_fvu: is \(targetFVU); it must be finite and at least 0")
    }
    if let smallest = granularities.first, minGranularity > smallest {
      throw ServerError(
        .invalidArgument,
        "encode.min_granularity: is \(minGranularity), above the granularity asked for, \(smallest)"
      )
    }
  }
}

extension DecodeRequest {
  /// The rows' contents are checked when they are decoded, because that takes a pass over the data.
  func validate() throws(ServerError) {
    try checkModelName(model, field: "decode.model")
    _ = try codes.tokens()
  }
}
