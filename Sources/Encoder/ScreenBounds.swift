internal import CGranuleKernels
internal import GranuleDictionary
internal import GranuleTensors

extension SparseEncoder {
  /// The screen's view of one token; only tests ask for it.
  package struct ScreenBounds {
    /// The encoder's input: [d_model]
    package var input: [Float]
    /// Upper bounds of pre-activations, less max(θ, 0) if the rule has thresholds: [latents]; nil if
    /// the token cannot be screened.
    package var upperBounds: [Float]?
  }

  /// The screen's bounds of one token. activation: [d_model]
  package func screenBounds(_ activation: [Float]) throws(EncodingError) -> ScreenBounds {
    let latents = dictionary.latents
    var input = [Float](repeating: 0, count: dictionary.dModel)
    let squaredNorm = try core.input.prepare(
      activation, decoderBias: dictionary.decoderBias.pointer, into: &input)
    let encoder = core.screening
    var screen = encoder.screen
    var token = gk_screened_token()
    token.threshold = -.infinity
    var quantized = [Int8](repeating: 0, count: encoder.paddedDModel)
    var scratch = [Float](repeating: 0, count: encoder.paddedDModel)
    guard
      encoder.quantize(
        input, squaredNorm: squaredNorm, scratch: &scratch, quantized: &quantized, token: &token)
    else { return ScreenBounds(input: input, upperBounds: nil) }
    let panels = (latents + QuantizedEncoder.panelLatents - 1) / QuantizedEncoder.panelLatents
    var bounds = [Float](
      repeating: 0, count: panels * QuantizedEncoder.panelLatents + EncodeBlock.slack)
    var indices = [UInt32](repeating: 0, count: bounds.count)
    bounds.withUnsafeMutableBufferPointer { bounds in
      indices.withUnsafeMutableBufferPointer { indices in
        token.bounds = bounds.baseAddress
        token.latents = indices.baseAddress
        for panel in 0..<panels {
          gk_screen_panel(encoder.cpu.kernels, &screen, panel, quantized, &token, 1)
        }
      }
    }
    return ScreenBounds(input: input, upperBounds: Array(bounds[..<latents]))
  }
}
