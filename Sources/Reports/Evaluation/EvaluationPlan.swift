import GranuleDictionary
package import GranuleTraining
import GranuleLanguageModel

/// A language model and the text that its loss is measured on.
package struct LanguageModelText {
  let model: LanguageModel
  let sequences: [[Int32]]
  let endTokens: Set<Int32>

  /// Reads a GGUF file and text.
  ///
  /// - Parameters:
  ///   - text: files, or folders of them.
  ///   - context: tokens a sequence.
  ///   - tokens: the number of tokens to use, from the beginning of the text.
  package init(model path: String, text: [String], context: Int, tokens: Int) throws {
    let file = try GGUFFile(path: path)
    let tokenizer = try Tokenizer(file)
    sequences = try TextSequences.read(
      text, tokenizer: tokenizer, context: context, tokens: tokens)
    endTokens = tokenizer.endTokens
    model = LanguageModel(try LlamaWeights(file))
  }
}

/// The dictionaries that an evaluation measures and what it measures of them, checked before the
/// first measurement.
package struct EvaluationPlan {
  /// What to measure, and on what.
  package struct Options {
    /// Files or folders of activations; empty for those that each run held out.
    package var activations: [String] = []
    /// Sequences of the activations to use; nil for all.
    package var sequences: Range<Int>?
    /// Granularities, ascending; nil for those that each dictionary lists.
    package var granularities: [Int]?
    /// Tokens that representational similarity is measured on; 0 for none.
    package var similaritySamples = 0
    /// Ranks that power laws are fitted to, as shares of the values above zero.
    package var middle = PowerLaw.defaultMiddle
    /// Whether cosines and eigenvalues of the decoder are measured.
    package var measuresDecoder = true
    /// Whether reconstructions are spliced into a language model.
    package var hasLanguageModel = false
    /// The block of the language model before which they are; nil for the one of the dictionary.
    package var layer: Int?

    package init() {}
  }

  /// A dictionary to measure.
  package struct Subject {
    package var name: String
    var folder: String
    /// nil if only recaptured loss is measured.
    package var dataset: ActivationDataset?
    var granularities: [Int]
    /// Whether the dictionary was trained on any of the dataset; nil if that is not known.
    var isOfTraining: Bool?
    /// The block before which it is spliced in, if there is a language model.
    var layer: Int
  }

  package let subjects: [Subject]
  private let options: Options

  /// Opens every dictionary and its activations.
  ///
  /// - Parameter paths: runs or dictionary folders; at least one.
  /// - Throws: `TrainingError` or `FileError` for a path that cannot be measured as asked.
  package init(_ paths: [String], _ options: Options) throws {
    self.options = options
    let names = DictionaryLocation.shortNames(paths)
    var subjects: [Subject] = []
    for (name, path) in zip(names, paths) {
      let subject = try Self.subject(
        name, try DictionaryLocation(path), options, isAlone: paths.count == 1)
      if let dataset = subject.dataset,
        let other = subjects.first(where: { $0.dataset?.isSame(as: dataset) == false })
      {
        throw TrainingError(
          .mismatch,
          "\(other.folder) and \(subject.folder) held out different activations: name some with "
            + "--activations, so that both are measured on the same")
      }
      subjects.append(subject)
    }
    self.subjects = subjects
  }

  private static func subject(
    _ name: String, _ location: DictionaryLocation, _ options: Options, isAlone: Bool
  ) throws -> Subject {
    // A dictionary folder has no activations of its own; with a model, text is enough.
    let isWithout = options.hasLanguageModel && options.activations.isEmpty && !location.isRun
    let dataset =
      isWithout
      ? nil
      : try location.activations(paths: options.activations, sequences: options.sequences)
    let dictionary = try SparseAutoencoder(folder: location.folder)
    if let dataset, dataset.dModel != dictionary.dModel {
      throw TrainingError(
        .mismatch,
        "\(location.folder) has d_model \(dictionary.dModel), but the activations have "
          + "\(dataset.dModel): name activations of the layer that it was trained on")
    }
    let listed = dictionary.granularities.map(\.latents)
    var wanted = options.granularities ?? (listed.isEmpty ? [dictionary.latents] : listed)
    if !isAlone { wanted.removeAll { $0 > dictionary.latents } }
    guard let largest = wanted.last, largest <= dictionary.latents else {
      throw TrainingError(
        .invalid(
          field: "granularities", value: "\(wanted.last ?? 0)",
          limit: "in 1 … \(dictionary.latents)"),
        "--granularities: \(location.folder) has \(dictionary.latents) latents, name some of 1 … "
          + "\(dictionary.latents)")
    }
    return Subject(
      name: name, folder: location.folder, dataset: dataset, granularities: wanted,
      isOfTraining: dataset.flatMap { location.wasTrained(on: $0) },
      layer: options.hasLanguageModel
        ? try layer(of: dictionary, location.folder, options) : 0)
  }

  private static func layer(
    of dictionary: SparseAutoencoder, _ folder: String, _ options: Options
  ) throws -> Int {
    if let layer = options.layer { return layer }
    if case .block(let layer, .residual) = dictionary.provenance.hook { return layer }
    throw TrainingError(
      .missing(path: "layer"),
      "\(folder) does not say that it encodes the residual stream before a block: name the block "
        + "with --layer")
  }

  /// Measures one dictionary.
  ///
  /// - Parameters:
  ///   - onProgress: receives the share done, and what is being measured.
  ///   - shouldStop: ends the measurement with `CancellationError` as soon as it is true.
  package func report(
    _ subject: Subject, _ reader: LanguageModelText?,
    onProgress: (Double, @autoclosure () -> String) -> Void, shouldStop: () -> Bool
  ) throws -> DictionaryReport {
    let dictionary = try SparseAutoencoder(folder: subject.folder)
    var report = DictionaryReport(
      dictionary, name: subject.name, granularities: subject.granularities)
    if let dataset = subject.dataset {
      report.activationPaths = dataset.paths
      report.isOfTraining = subject.isOfTraining
      let evaluation = try Evaluation(
        dictionary, on: dataset, granularities: subject.granularities,
        similaritySamples: options.similaritySamples,
        onProgress: { onProgress($0, "\(dataset.tokens.grouped) tokens") },
        shouldStop: shouldStop)
      report.evaluation = evaluation
      report.mass = ActivationMass(
        evaluation.latentStatistics, granularities: subject.granularities)
    }
    if let reader {
      report.layer = subject.layer
      report.recaptured = try RecapturedLoss(
        dictionary, in: reader.model, before: subject.layer, sequences: reader.sequences,
        endTokens: reader.endTokens, granularities: subject.granularities,
        onProgress: { onProgress($0, "recaptured loss") }, shouldStop: shouldStop)
    }
    if let evaluation = report.evaluation {
      report.correlations = evaluation.sparsities.compactMap {
        MetricCorrelations(evaluation, report.recaptured, sparsity: $0)
      }
      if options.measuresDecoder {
        report.decoder = try DecoderSimilarity(
          dictionary, granularities: subject.granularities,
          onProgress: { onProgress($0, "decoder cosines") }, shouldStop: shouldStop)
      }
      report.ranked = try ranked(dictionary, evaluation.latentStatistics)
    }
    return report
  }

  private func ranked(
    _ dictionary: SparseAutoencoder, _ statistics: LatentStatistics
  ) throws -> [DictionaryReport.RankedValues] {
    var ranked = [
      DictionaryReport.RankedValues(
        name: "mean squared activation", key: "mean_squared_activation",
        statistics.meanSquaredActivations, middle: options.middle),
      DictionaryReport.RankedValues(
        name: "frequency of activation", key: "frequency", statistics.frequencies,
        middle: options.middle),
    ]
    if options.measuresDecoder {
      ranked.insert(
        DictionaryReport.RankedValues(
          name: "eigenvalues of the decoder's covariance", key: "decoder_covariance_eigenvalues",
          try DecoderSpectrum.covarianceEigenvalues(dictionary), middle: options.middle), at: 0)
    }
    return ranked
  }
}
