internal import CGranuleKernels
internal import GranuleTensors
internal import GranuleThreads

/// Tokens to encode at a granularity.
public struct EncodeInput {
  /// [tokens, d_model] float32, row-major, raw.
  public var activations: UnsafeBufferPointer<Float>
  /// Number of rows.
  public var tokens: Int
  /// G, the number of latents to consider.
  public var granularity: Int
  /// For `topk` only; nil takes `defaultK(at:)`.
  public var k: Int?
  /// What smaller granularities have left for this one, and this one for larger ones; nil where there
  /// are none.
  public var progress: EncodeProgress?
  /// The first token's place in `progress`.
  public var firstToken = 0

  /// Tokens to encode.
  public init(
    activations: UnsafeBufferPointer<Float>, tokens: Int, granularity: Int, k: Int? = nil
  ) {
    self.activations = activations
    self.tokens = tokens
    self.granularity = granularity
    self.k = k
  }
}

extension SparseAutoencoder {
  /// Encodes tokens at a granularity, on the calling thread.
  ///
  /// Pre-activations are screened in 8 bits with a proven bound of the error; every latent that may
  /// be active is scored in float32, in one fixed order of summation (docs/encoder.md). So the
  /// answer, set and bits, is that of `ReferenceEncoder`, however tokens are batched.
  ///
  /// - Parameters:
  ///   - activations: [tokens, d_model] float32, row-major, raw.
  ///   - granularity: G, the number of latents to consider.
  ///   - k: for `topk` only; nil takes `defaultK(at:)`.
  ///   - workspace: the calling thread's.
  /// - Returns: the active latents of each token; only values > 0; of equal values the lower index.
  /// - Throws: `EncodingError`, for the first token concerned.
  public func encode(
    _ activations: UnsafeBufferPointer<Float>, tokens: Int, granularity: Int, k: Int? = nil,
    workspace: EncodeWorkspace
  ) throws(EncodingError) -> SparseCodes {
    let input = EncodeInput(
      activations: activations, tokens: tokens, granularity: granularity, k: k)
    return try encode([input], workspace: workspace)[0].get()
  }

  /// Encodes several inputs in one pass over the encoder, each at its granularity: the cost follows
  /// the sum of the tokens' granularities.
  ///
  /// - Parameter workspace: the calling thread's.
  /// - Returns: for each input its codes, as if it were encoded alone, or its error.
  public func encode(
    _ encodeInputs: [EncodeInput], workspace: EncodeWorkspace
  ) -> [Result<SparseCodes, EncodingError>] {
    encode(encodeInputs, floor: nil, workspace: workspace)
  }

  /// With a floor, which a dictionary of the rule `topk` may be given, the latents of each token
  /// whose pre-activation is at least that and > 0, and perhaps others that are > 0; not the k largest.
  func encode(
    _ encodeInputs: [EncodeInput], floor: Float?, workspace: EncodeWorkspace
  ) -> [Result<SparseCodes, EncodingError>] {
    var errors = [EncodingError?](repeating: nil, count: encodeInputs.count)
    var rows: [EncodeRow] = []
    for (request, input) in encodeInputs.enumerated() {
      precondition(input.activations.count == input.tokens * dModel)
      do throws(EncodingError) {
        let k = try checkedK(input.k, granularity: input.granularity)
        let kMax = max(k, input.progress?.kMax ?? 0)
        for token in 0..<input.tokens {
          rows.append(
            EncodeRow(
              request: request, token: token, granularity: input.granularity,
              k: floor == nil ? k : 0, kMax: floor == nil ? kMax : 0, floor: floor ?? 0,
              progress: input.progress?.token(input.firstToken + token)))
        }
      } catch {
        errors[request] = error
      }
    }
    if encodeInputs.count > 1 || encodeInputs.contains(where: { $0.progress != nil }) {
      // Stable: tokens of an input stay in order.
      rows.sort { ($0.firstPanel, $1.granularity) < ($1.firstPanel, $0.granularity) }
    }
    var answers = EncodeAnswers(encodeInputs)
    var next = 0
    while next < rows.count {
      let (granularity, firstPanel) = (rows[next].granularity, rows[next].firstPanel)
      // Rows that begin at the same panel.
      let alike = rows[next...].prefix { $0.firstPanel == firstPanel }
      let path =
        workspace.forcedPath
        ?? fasterPath(granularity: granularity, k: rows[next].k, tokens: alike.count)
      // k may differ within a block: the lists must hold the largest.
      let kMax =
        encodeInputs.count > 1 ? alike.reduce(0) { max($0, $1.kMax) } : rows[next].kMax
      let size = EncodeBlock.size(path, granularity: granularity, k: kMax, dModel: dModel)
      let block = alike.prefix(size.tokens)
      encodeBlock(
        Array(block), path, capacity: size.capacity, encodeInputs, workspace, &answers, &errors)
      next = block.endIndex
    }
    return encodeInputs.indices.map { request in
      errors[request].map { .failure($0) } ?? .success(answers.codes(of: request))
    }
  }

  private func fasterPath(granularity: Int, k: Int, tokens: Int) -> EncodePath {
    guard dModel <= QuantizedEncoder.dModelMax else { return .exact }
    return screeningHistory.fasterPath(
      quantizedEncoder, granularity: granularity, k: k, tokens: tokens)
  }

  private func encodeBlock(
    _ wanted: [EncodeRow], _ path: EncodePath, capacity: Int, _ encodeInputs: [EncodeInput],
    _ workspace: EncodeWorkspace, _ answers: inout EncodeAnswers, _ errors: inout [EncodingError?]
  ) {
    let (rows, squaredNorms) = prepareRows(wanted, encodeInputs, workspace, &errors)
    guard !rows.isEmpty else { return }
    let before = workspace.counters
    let block = EncodeBlock(self, rows: rows[...], capacity: capacity, workspace: workspace)
    let emit: EncodeBlock.Emit = { position, latents, values in
      answers.add(rows[position], latents, values)
    }
    switch path {
    case .exact: block.encodeExactly(emit: emit)
    case .screened:
      block.encodeScreened(squaredNorms: squaredNorms, emit: emit)
      screeningHistory.learn(
        workspace.counters.since(before), quantizedEncoder, granularity: rows[0].granularity,
        k: rows[0].k)
    }
  }

  /// Writes the encoder's inputs of those rows that can be encoded to the workspace.
  private func prepareRows(
    _ wanted: [EncodeRow], _ encodeInputs: [EncodeInput], _ workspace: EncodeWorkspace,
    _ errors: inout [EncodingError?]
  ) -> (rows: [EncodeRow], squaredNorms: [Float]) {
    let prepared = workspace.inputs.reserve(wanted.count * dModel)
    var rows: [EncodeRow] = []
    var squaredNorms: [Float] = []
    rows.reserveCapacity(wanted.count)
    squaredNorms.reserveCapacity(wanted.count)
    for row in wanted where errors[row.request] == nil {
      let activation = encodeInputs[row.request].activations.baseAddress! + row.token * dModel
      do throws(EncodingError) {
        let squaredNorm = try prepare(activation, into: prepared + rows.count * dModel)
        try checkOverflow(squaredNorm: squaredNorm, granularity: row.granularity)
        squaredNorms.append(squaredNorm)
        rows.append(row)
      } catch {
        errors[row.request] = error.shifted(by: row.token)
      }
    }
    return (rows, squaredNorms)
  }

  /// Fewer rows to quantise, or pairs of token and latent to score, take some ten microseconds.
  private static let (rowsPerThread, pairsPerThread) = (64, 512)

  /// As `encode`, each thread taking a share of the latents: for few tokens and many latents.
  func encodeSplittingLatents(
    _ activations: UnsafeBufferPointer<Float>, tokens: Int, granularity: Int, k: Int?,
    workspaces: [EncodeWorkspace]
  ) throws(EncodingError) -> SparseCodes {
    let input = EncodeInput(
      activations: activations, tokens: tokens, granularity: granularity, k: k)
    let k = try checkedK(k, granularity: granularity)
    let workspace = workspaces[0]
    let threads = workspaces.count
    let path =
      workspace.forcedPath ?? fasterPath(granularity: granularity, k: k, tokens: tokens)
    let size = EncodeBlock.size(.screened, granularity: granularity, k: k, dModel: dModel)
    guard path == .screened, tokens <= size.tokens else {
      return try encode([input], workspace: workspace)[0].get()
    }
    var errors: [EncodingError?] = [nil]
    let wanted = (0..<tokens).map {
      EncodeRow(request: 0, token: $0, granularity: granularity, k: k, kMax: k)
    }
    let (rows, squaredNorms) = prepareRows(wanted, [input], workspace, &errors)
    if let error = errors[0] { throw error }
    var answers = EncodeAnswers([input])
    guard !rows.isEmpty else { return answers.codes(of: 0) }

    let before = workspace.counters
    let blocks = workspaces.map {
      EncodeBlock(self, rows: rows[...], capacity: size.capacity, workspace: $0)
    }
    let first = blocks[0]
    first.begin()
    first.reserveQuantized()
    // Other threads take longer to wake up than a little work takes.
    let quantizing = rows.count < Self.rowsPerThread ? 1 : threads
    Parallel.perform(quantizing) { thread in
      first.quantize(
        rows.count * thread / quantizing..<rows.count * (thread + 1) / quantizing,
        squaredNorms: squaredNorms, scratch: workspaces[thread].transformed)
    }
    for block in blocks.dropFirst() { block.begin(like: first) }
    Parallel.perform(threads) { thread in
      blocks[thread].screen(
        panels: first.panels * thread / threads..<first.panels * (thread + 1) / threads,
        quantized: workspace.quantized.pointer)
    }
    for block in blocks.dropFirst() { first.append(block) }
    let pairs = first.gatherPairs(0..<rows.count)
    let scoring = pairs < Self.pairsPerThread ? 1 : threads
    Parallel.perform(scoring) { thread in
      first.rescore(pairs * thread / scoring..<pairs * (thread + 1) / scoring)
    }
    first.finishScreened { position, latents, values in
      answers.add(rows[position], latents, values)
    }
    screeningHistory.learn(
      workspace.counters.since(before), quantizedEncoder, granularity: granularity, k: k)
    return answers.codes(of: 0)
  }

  /// k for `topk`, 0 for the other rules.
  func checkedK(_ k: Int?, granularity: Int) throws(EncodingError) -> Int {
    guard (1...latents).contains(granularity) else {
      throw .granularity(granularity, latents: latents)
    }
    guard case .topk = selectionRule else {
      guard k == nil else { throw .unexpectedK(rule: selectionRule.name) }
      return 0
    }
    guard let k else { return defaultK(at: granularity) }
    guard (1...granularity).contains(k) else { throw .k(k, granularity: granularity) }
    return k
  }

  /// Writes the encoder's input, normalised and centred, and returns its squared norm.
  ///
  /// - Throws: `EncodingError` with token 0.
  func prepare(
    _ activation: UnsafePointer<Float>, into input: UnsafeMutablePointer<Float>
  ) throws(EncodingError) -> Float {
    // Also finite only if every element is: a NaN or an infinity survives every sum.
    let rawNorm = gk_dot(activation, activation, dModel)
    guard rawNorm.isFinite else {
      if let dimension = (0..<dModel).first(where: { !activation[$0].isFinite }) {
        throw .notFinite(token: 0, dimension: dimension)
      }
      throw .overflow(token: 0)
    }
    let transform = tokenTransform(activation)
    let bias = decoderBias.pointer
    switch (inputNormalization, subtractsDecoderBias) {
    case (.none, true): for i in 0..<dModel { input[i] = activation[i] - bias[i] }
    case (.none, false): input.update(from: activation, count: dModel)
    case (_, let subtracts):
      for i in 0..<dModel {
        let normalised = (activation[i] - transform.inputShift) * transform.inputScale
        input[i] = subtracts ? normalised - bias[i] : normalised
      }
    }
    let squaredNorm = gk_dot(input, input, dModel)
    guard squaredNorm.isFinite else { throw .overflow(token: 0) }
    return squaredNorm
  }

  /// What input normalisation does to one token.
  struct TokenTransform {
    /// Normalised input: (x − inputShift) · inputScale.
    var inputShift: Float = 0
    var inputScale: Float = 1
    /// Reconstruction in raw scale: outputScale · x̂ + outputShift.
    var outputScale: Float = 1
    var outputShift: Float = 0
  }

  func tokenTransform(_ activation: UnsafePointer<Float>) -> TokenTransform {
    switch inputNormalization {
    case .none: return TokenTransform()
    case .constantNormRescale:
      let norm = Double(gk_dot(activation, activation, dModel)).squareRoot()
      // A row of zeros has no direction to rescale: it stays zeros, in and out.
      guard norm > 0 else { return TokenTransform(inputScale: 0, outputScale: 0) }
      let factor = Double(dModel).squareRoot() / norm
      return TokenTransform(inputScale: Float(factor), outputScale: Float(1 / factor))
    case .layerNorm:
      var sum = 0.0
      for i in 0..<dModel { sum += Double(activation[i]) }
      let mean = sum / Double(dModel)
      var squares = 0.0
      for i in 0..<dModel {
        let difference = Double(activation[i]) - mean
        squares += difference * difference
      }
      let deviation = (squares / Double(max(dModel - 1, 1))).squareRoot()
      return TokenTransform(
        inputShift: Float(mean), inputScale: Float(1 / (deviation + 1e-5)),
        outputScale: Float(deviation), outputShift: Float(mean))
    }
  }

  /// - Throws: `EncodingError.overflow` with token 0 where a pre-activation may overflow.
  private func checkOverflow(squaredNorm: Float, granularity: Int) throws(EncodingError) {
    let norm = 1.01 * (Double(squaredNorm) + 1e-30).squareRoot()
    let magnitude =
      Double(encoderNormMax[granularity - 1]) * norm + Double(encoderBiasMax[granularity - 1])
    guard magnitude < Double(Float.greatestFiniteMagnitude) / 16 else { throw .overflow(token: 0) }
  }
}

/// The active latents of each token of several inputs, gathered in any order.
private struct EncodeAnswers {
  private var indices: [UInt32] = []
  private var values: [Float] = []
  /// Where each token's latents are: [inputs][tokens]
  private var spans: [[Range<Int>]]

  init(_ encodeInputs: [EncodeInput]) {
    spans = encodeInputs.map { [Range<Int>](repeating: 0..<0, count: $0.tokens) }
  }

  mutating func add(
    _ row: EncodeRow, _ latents: UnsafeBufferPointer<UInt32>,
    _ newValues: UnsafeBufferPointer<Float>
  ) {
    spans[row.request][row.token] = indices.count..<indices.count + latents.count
    indices.append(contentsOf: latents)
    values.append(contentsOf: newValues)
  }

  func codes(of request: Int) -> SparseCodes {
    var codes = SparseCodes()
    indices.withUnsafeBufferPointer { indices in
      values.withUnsafeBufferPointer { values in
        for span in spans[request] {
          codes.append(
            indices: UnsafeBufferPointer(rebasing: indices[span]),
            values: UnsafeBufferPointer(rebasing: values[span]))
        }
      }
    }
    return codes
  }
}
