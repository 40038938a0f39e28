package import GranuleTensors
internal import GranuleThreads
internal import Synchronization

/// Tokens to encode at a granularity.
public struct EncodeInput {
  /// [tokens, d_model] float32, row-major, raw; the caller keeps them alive while they are encoded.
  public var activations: UnsafeBufferPointer<Float>
  /// G, the number of latents to consider.
  public var granularity: Int
  /// Number of active latents a token, for the rule `topk` only; nil takes the dictionary's
  /// `defaultK(at:)`.
  public var k: Int?
  /// What smaller granularities have left for this one, and this one for larger ones; nil if there
  /// are none.
  public var progress: EncodeProgress?
  /// The first token's place in `progress`.
  public var firstToken = 0

  /// Tokens to encode.
  public init(activations: UnsafeBufferPointer<Float>, granularity: Int, k: Int? = nil) {
    self.activations = activations
    self.granularity = granularity
    self.k = k
  }
}

extension EncodingCore {
  /// The fewest tokens a thread for which tokens are split over threads. With fewer, each thread would
  /// pay for a pass over the encoder's memory, so the latents are split instead.
  private static let tokensPerThreadMin = 256
  /// The least work, in weights, that is shared: less is done before a second thread has woken up.
  private static let weightsMin = 1 << 21

  /// As `SparseEncoder.encode`, with each input's k if the rule is `topk`.
  package func encode(
    _ inputs: [EncodeInput], in workspace: EncodeWorkspace, threads: Int? = nil
  ) -> [Result<SparseCodes, EncodingError>] {
    let scratch = Array(workspace.scratch.prefix(max(1, threads ?? workspace.scratch.count)))
    guard scratch.count > 1, inputs.count == 1, inputs[0].progress == nil,
      (1...latents).contains(inputs[0].granularity),
      inputs[0].activations.count * inputs[0].granularity >= Self.weightsMin
    else { return encode(inputs, floor: nil, scratch[0]) }
    do throws(EncodingError) {
      return [
        .success(
          try tokens(inputs[0]) >= scratch.count * Self.tokensPerThreadMin
            ? encodeSplittingTokens(inputs[0], floor: nil, scratch)
            : encodeSplittingLatents(inputs[0], scratch))
      ]
    } catch { return [.failure(error)] }
  }

  /// Encodes on all of the workspace's threads, each taking a share of the tokens.
  func encodeSplittingTokens(
    _ input: EncodeInput, floor: Float?, _ scratch: [EncodeScratch]
  ) throws(EncodingError) -> SparseCodes {
    let tokens = try tokens(input)
    let threads = scratch.count
    let answers = Mutex<[Result<SparseCodes, EncodingError>?]>(
      Array(repeating: nil, count: threads))
    Parallel.perform(threads) { thread in
      let start = tokens * thread / threads
      let end = tokens * (thread + 1) / threads
      var part = input
      part.activations = UnsafeBufferPointer(
        rebasing: input.activations[start * dModel..<end * dModel])
      let answer = encode([part], floor: floor, scratch[thread])[0]
      answers.withLock { $0[thread] = answer.mapError { $0.shifted(by: start) } }
    }
    var codes = SparseCodes()
    for answer in answers.withLock({ $0 }) { codes.append(try answer!.get()) }
    return codes
  }

  /// Encodes inputs in one pass over the encoder, on the calling thread. With a floor, for the rule
  /// `topk`: the latents of each token whose pre-activation is at least the floor and > 0, and perhaps
  /// others that are > 0; not the k largest.
  func encode(
    _ encodeInputs: [EncodeInput], floor: Float?, _ scratch: EncodeScratch
  ) -> [Result<SparseCodes, EncodingError>] {
    var errors = [EncodingError?](repeating: nil, count: encodeInputs.count)
    var rows: [EncodeRow] = []
    var counts = [Int](repeating: 0, count: encodeInputs.count)
    for (request, input) in encodeInputs.enumerated() {
      do throws(EncodingError) {
        counts[request] = try tokens(input)
        let k = floor == nil ? try checkedK(input.k, granularity: input.granularity) : 0
        let kMax = max(k, input.progress?.kMax ?? 0)
        for token in 0..<counts[request] {
          rows.append(
            EncodeRow(
              request: request, token: token, granularity: input.granularity,
              k: k, kMax: floor == nil ? kMax : 0, floor: floor ?? 0,
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
    var answers = EncodeAnswers(tokens: counts)
    var next = 0
    while next < rows.count {
      let (granularity, firstPanel) = (rows[next].granularity, rows[next].firstPanel)
      // Rows that begin at the same panel.
      let alike = rows[next...].prefix { $0.firstPanel == firstPanel }
      let path = fasterPath(granularity: granularity, k: rows[next].k, tokens: alike.count)
      // k may differ within a block: the lists must hold the largest.
      let kMax =
        encodeInputs.count > 1 ? alike.reduce(0) { max($0, $1.kMax) } : rows[next].kMax
      let size = EncodeBlock.size(path, granularity: granularity, k: kMax, dModel: dModel)
      let block = alike.prefix(size.tokens)
      encodeBlock(
        Array(block), path, capacity: size.capacity, encodeInputs, scratch, &answers, &errors)
      next = block.endIndex
    }
    return encodeInputs.indices.map { request in
      errors[request].map { .failure($0) } ?? .success(answers.codes(of: request))
    }
  }

  private func encodeBlock(
    _ wanted: [EncodeRow], _ path: EncodePath, capacity: Int, _ encodeInputs: [EncodeInput],
    _ scratch: EncodeScratch, _ answers: inout EncodeAnswers, _ errors: inout [EncodingError?]
  ) {
    let (rows, squaredNorms) = prepareRows(wanted, encodeInputs, scratch, &errors)
    guard !rows.isEmpty else { return }
    let before = scratch.counters
    let block = EncodeBlock(self, rows: rows[...], capacity: capacity, scratch: scratch)
    let emit: EncodeBlock.Emit = { position, latents, values in
      answers.add(rows[position], latents, values)
    }
    switch path {
    case .exact: block.encodeExactly(emit: emit)
    case .screened:
      block.encodeScreened(squaredNorms: squaredNorms, emit: emit)
      history.learn(
        scratch.counters.since(before), screening, granularity: rows[0].granularity, k: rows[0].k)
    }
  }

  /// Writes the encoder's inputs of those rows that can be encoded to the scratch memory.
  private func prepareRows(
    _ wanted: [EncodeRow], _ encodeInputs: [EncodeInput], _ scratch: EncodeScratch,
    _ errors: inout [EncodingError?]
  ) -> (rows: [EncodeRow], squaredNorms: [Float]) {
    let prepared = scratch.inputs.reserve(wanted.count * dModel)
    var rows: [EncodeRow] = []
    var squaredNorms: [Float] = []
    rows.reserveCapacity(wanted.count)
    squaredNorms.reserveCapacity(wanted.count)
    for row in wanted where errors[row.request] == nil {
      let activation = encodeInputs[row.request].activations.baseAddress! + row.token * dModel
      do throws(EncodingError) {
        let squaredNorm = try input.prepare(
          activation, decoderBias: weights.decoderBias, into: prepared + rows.count * dModel)
        try bounds.check(squaredNorm: squaredNorm, granularity: row.granularity)
        squaredNorms.append(squaredNorm)
        rows.append(row)
      } catch {
        errors[row.request] = error.shifted(by: row.token)
      }
    }
    return (rows, squaredNorms)
  }

  /// The fewest rows to quantise, and pairs of token and latent to score, that threads share: fewer
  /// take about ten microseconds.
  private static let (rowsPerThread, pairsPerThread) = (64, 512)

  /// Encodes on several threads, each taking a share of the latents: for few tokens and many latents.
  private func encodeSplittingLatents(
    _ input: EncodeInput, _ scratch: [EncodeScratch]
  ) throws(EncodingError) -> SparseCodes {
    let (tokens, granularity) = (try tokens(input), input.granularity)
    let k = try checkedK(input.k, granularity: granularity)
    let threads = scratch.count
    let path = fasterPath(granularity: granularity, k: k, tokens: tokens)
    let size = EncodeBlock.size(.screened, granularity: granularity, k: k, dModel: dModel)
    guard path == .screened, tokens <= size.tokens else {
      return try encode([input], floor: nil, scratch[0])[0].get()
    }
    var errors: [EncodingError?] = [nil]
    let wanted = (0..<tokens).map {
      EncodeRow(request: 0, token: $0, granularity: granularity, k: k, kMax: k)
    }
    let (rows, squaredNorms) = prepareRows(wanted, [input], scratch[0], &errors)
    if let error = errors[0] { throw error }
    var answers = EncodeAnswers(tokens: [tokens])
    guard !rows.isEmpty else { return answers.codes(of: 0) }

    let before = scratch[0].counters
    let blocks = scratch.map {
      EncodeBlock(self, rows: rows[...], capacity: size.capacity, scratch: $0)
    }
    let first = blocks[0]
    first.begin()
    first.reserveQuantized()
    // A little work takes less time than a second thread takes to wake up.
    let quantizing = rows.count < Self.rowsPerThread ? 1 : threads
    Parallel.perform(quantizing) { thread in
      first.quantize(
        rows.count * thread / quantizing..<rows.count * (thread + 1) / quantizing,
        squaredNorms: squaredNorms, transformed: scratch[thread].transformed)
    }
    for block in blocks.dropFirst() { block.begin(like: first) }
    Parallel.perform(threads) { thread in
      blocks[thread].screen(
        panels: first.panels * thread / threads..<first.panels * (thread + 1) / threads,
        quantized: scratch[0].quantized.pointer)
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
    history.learn(
      scratch[0].counters.since(before), screening, granularity: granularity, k: k)
    return answers.codes(of: 0)
  }
}

/// Collects the active latents of each token of several inputs, in any order.
private struct EncodeAnswers {
  private var indices: [UInt32] = []
  private var values: [Float] = []
  /// The positions of each token's latents: [inputs][tokens]
  private var spans: [[Range<Int>]]

  init(tokens: [Int]) { spans = tokens.map { [Range<Int>](repeating: 0..<0, count: $0) } }

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
