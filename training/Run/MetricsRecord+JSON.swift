internal import GranuleFiles

// A record as a line of `metrics.jsonl`.
extension MetricsRecord {
  /// The line, with the seconds since 1970 at which it was logged.
  func json(time: Double) -> JSONValue {
    func value(_ value: Value) -> JSONValue {
      switch value {
      case .count(let count): JSONValue(count)
      case .number(let number): JSONValue(number)
      case .flag(let flag): .bool(flag)
      case .prefixes(let prefixes):
        .object(prefixes.map { .init(String($0.latents), JSONValue($0.fvu)) })
      case .drawnPrefixes(let prefixes):
        .array(prefixes.map { [JSONValue($0.latents), JSONValue($0.fvu)] })
      }
    }
    return .object(
      [.init("step", JSONValue(step))] + entries.map { .init($0.key, value($0.value)) }
        + [.init("time", JSONValue(time))])
  }

  /// Reads a line; nil if it is not one.
  init?(json: JSONValue) {
    func number(_ key: String) -> Double? { json[key]?.number }
    guard let step = json["step"]?.integer else { return nil }
    if let fvu = number("held_out_fvu") {
      self = .validation(
        ValidationMetrics(
          step: step, fvu: fvu, l0: number("held_out_l0") ?? 0,
          tokens: json["held_out_tokens"]?.integer ?? 0))
      return
    }
    guard let loss = number("loss") else { return nil }
    let prefixes = (json["fvu"]?.members ?? []).compactMap { member in
      Int(member.key).flatMap { latents in
        member.value.number.map { StepMetrics.Prefix(latents: latents, fvu: $0) }
      }
    }
    let drawn = (json["drawn_fvu"]?.elements ?? []).compactMap { pair -> StepMetrics.Prefix? in
      guard let pair = pair.elements, pair.count == 2, let latents = pair[0].integer,
        let fvu = pair[1].number
      else { return nil }
      return StepMetrics.Prefix(latents: latents, fvu: fvu)
    }
    self = .step(
      StepMetrics(
        step: step, tokens: json["tokens"]?.integer ?? 0, loss: loss, prefixes: prefixes,
        drawnPrefixes: drawn, auxiliaryLoss: number("auxiliary_loss") ?? 0,
        l0: number("l0") ?? 0, deadLatents: json["dead_latents"]?.integer ?? 0,
        learningRate: number("learning_rate") ?? 0, gradientNorm: number("gradient_norm") ?? 0,
        tokensPerSecond: number("tokens_per_second") ?? 0, seconds: number("seconds") ?? 0,
        secondsWaited: number("seconds_waited_for_data") ?? 0,
        penalty: number("penalty").map {
          .init(value: $0, coefficient: number("sparsity_coefficient") ?? 0)
        },
        core: number("core_l0").map {
          .init(l0: $0, exceedsK: json["core_exceeds_k"]?.bool ?? false)
        }, servingThreshold: number("serving_threshold")))
  }
}
