internal import Glibc

/// How the loss of dictionaries depends on their size N, the granularity G that is used, and the
/// number of active latents K, fitted in log–log space:
///
///     log L = α + β_k log K + β_n log N + γ log K log N + β_g log G + δ log G log K
///
/// That is the law of Gao et al. (2024) with a direct term in G and an interaction of G and K, as
/// Progressive Coding for SAEs extends it (eq. 9); the paper states neither form nor values in full.
/// With a floor, the loss that no dictionary size removes, exp(ζ + η log K), is added to L.
public struct ScalingLaw: Sendable {
  /// A dictionary at a granularity.
  public struct Point: Sendable {
    /// N, number of latents of the whole dictionary.
    public var latents: Double
    /// G, number of latents used.
    public var granularity: Double
    /// K, mean number of active latents a token.
    public var active: Double
    /// L, here FVU.
    public var loss: Double

    /// A point; all above zero.
    public init(latents: Int, granularity: Int, active: Double, loss: Double) {
      self.latents = Double(latents)
      self.granularity = Double(granularity)
      self.active = active
      self.loss = loss
    }
  }

  /// A term of log L, or of the floor.
  public struct Term: Sendable {
    /// Such as "log K · log N".
    public var name: String
    /// nil if the points cannot tell it from the terms before: it is left out.
    public var coefficient: Double?
    /// From the residuals, nil if there are too few points; of a law with a floor, of the fit
    /// linearised at its end.
    public var standardError: Double?
  }

  /// The terms in the order above.
  public let terms: [Term]
  /// ζ and η, empty for a law without a floor.
  public let floor: [Term]
  /// The share of the variance of log L that is explained; nil if that does not vary.
  public let rSquared: Double?
  /// The points that were fitted.
  public let points: [Point]

  static let names = ["1", "log K", "log N", "log K · log N", "log G", "log G · log K"]
  static let floorNames = ["floor: 1", "floor: log K"]

  /// Fits the law without a floor to the points whose loss and K are above zero; nil with fewer than
  /// three.
  public init?(_ points: [Point]) {
    let points = points.filter { $0.loss > 0 && $0.active > 0 }
    guard points.count >= 3 else { return nil }
    let rows = points.map(Self.variables)
    let columns = Self.names.indices.map { term in rows.map { $0[term] } }
    let fit = LeastSquares(columns: columns, points.map { log($0.loss) })
    self.points = points
    terms = Self.names.indices.map {
      Term(
        name: Self.names[$0], coefficient: fit.coefficients[$0],
        standardError: fit.standardErrors[$0])
    }
    floor = []
    rSquared = fit.rSquared
  }

  /// The law with a floor, fitted by Levenberg and Marquardt's method from several beginnings; nil
  /// where there are fewer than two points more than coefficients, or no floor that they can tell makes
  /// the fit better.
  public func withFloor() -> ScalingLaw? {
    let kept = terms.indices.filter { terms[$0].coefficient != nil }
    guard points.count >= kept.count + 4, let least = points.map(\.loss).min() else { return nil }
    let fit = FloorFit(
      variables: points.map { point in kept.map { Self.variables(point)[$0] } },
      logActive: points.map { log($0.active) }, logLoss: points.map { log($0.loss) })
    let start = kept.compactMap { terms[$0].coefficient }
    let fits = [0.9, 0.5, 0.1].map { fit.run(from: start + [log(least * $0), 0]) }
    guard let best = fits.min(by: { $0.residual < $1.residual }) else { return nil }
    let mean = fit.logLoss.reduce(0, +) / Double(points.count)
    let variance = fit.logLoss.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    guard variance > 0 else { return nil }
    let improved = 1 - best.residual / variance
    // A floor that only one value of K feels fits anything: its two coefficients are one then.
    let isTold = best.standardErrors.allSatisfy { $0 != nil }
    guard isTold, improved > rSquared ?? 1 else { return nil }
    var fitted = terms
    for (position, term) in kept.enumerated() {
      fitted[term].coefficient = best.parameters[position]
      fitted[term].standardError = best.standardErrors[position]
    }
    let floor = Self.floorNames.indices.map {
      Term(
        name: Self.floorNames[$0], coefficient: best.parameters[kept.count + $0],
        standardError: best.standardErrors[kept.count + $0])
    }
    return ScalingLaw(terms: fitted, floor: floor, rSquared: improved, points: points)
  }

  private init(terms: [Term], floor: [Term], rSquared: Double?, points: [Point]) {
    self.terms = terms
    self.floor = floor
    self.rSquared = rSquared
    self.points = points
  }

  /// L as the law has it.
  public func callAsFunction(_ point: Point) -> Double {
    let logLoss = zip(terms, Self.variables(point)).reduce(0) {
      $0 + ($1.0.coefficient ?? 0) * $1.1
    }
    guard floor.count == 2, let constant = floor[0].coefficient, let slope = floor[1].coefficient
    else { return exp(logLoss) }
    return exp(logLoss) + exp(constant + slope * log(point.active))
  }

  private static func variables(_ point: Point) -> [Double] {
    let (k, n, g) = (log(point.active), log(point.latents), log(point.granularity))
    return [1, k, n, k * n, g, g * k]
  }
}

/// Least squares of log L against log(exp(Σ c·v) + exp(ζ + η log K)).
private struct FloorFit {
  /// [points, terms]
  let variables: [[Double]]
  let logActive: [Double]
  let logLoss: [Double]

  private static let stepsMax = 500

  struct Outcome {
    var parameters: [Double]
    var standardErrors: [Double?]
    var residual: Double
  }

  func run(from start: [Double]) -> Outcome {
    var parameters = start
    var (residuals, jacobian) = linearised(parameters)
    var residual = residuals.reduce(0) { $0 + $1 * $1 }
    var damping = 1e-2
    for _ in 0..<Self.stepsMax where residual.isFinite && damping < 1e12 {
      // Damped: one more row for each parameter, scaled as its column.
      let size = parameters.count
      let columns = (0..<size).map { number in
        let length = jacobian[number].reduce(1e-30) { $0 + $1 * $1 }.squareRoot()
        return jacobian[number]
          + (0..<size).map { $0 == number ? damping.squareRoot() * length : 0 }
      }
      let step = LeastSquares(
        columns: columns, residuals + [Double](repeating: 0, count: size))
      let next = zip(parameters, step.coefficients).map { $0 + ($1 ?? 0) }
      let (nextResiduals, nextJacobian) = linearised(next)
      let nextResidual = nextResiduals.reduce(0) { $0 + $1 * $1 }
      guard nextResidual < residual else {
        damping *= 4
        continue
      }
      let gain = (residual - nextResidual) / residual
      (parameters, residuals, jacobian, residual) = (
        next, nextResiduals, nextJacobian, nextResidual
      )
      damping = max(damping / 4, 1e-12)
      if gain < 1e-12 { break }
    }
    let errors = LeastSquares(columns: jacobian, residuals).standardErrors
    return Outcome(parameters: parameters, standardErrors: errors, residual: residual)
  }

  /// log L less the model, and the model's derivatives by each parameter: [parameters][points].
  private func linearised(_ parameters: [Double]) -> (residuals: [Double], jacobian: [[Double]]) {
    let terms = parameters.count - 2
    var residuals: [Double] = []
    var jacobian = [[Double]](repeating: [], count: parameters.count)
    for point in logLoss.indices {
      let power = (0..<terms).reduce(0) { $0 + parameters[$1] * variables[point][$1] }
      let floor = parameters[terms] + parameters[terms + 1] * logActive[point]
      let largest = max(power, floor)
      let model = largest + log(exp(power - largest) + exp(floor - largest))
      residuals.append(logLoss[point] - model)
      let (powerShare, floorShare) = (exp(power - model), exp(floor - model))
      for term in 0..<terms { jacobian[term].append(powerShare * variables[point][term]) }
      jacobian[terms].append(floorShare)
      jacobian[terms + 1].append(floorShare * logActive[point])
    }
    return (residuals, jacobian)
  }
}
