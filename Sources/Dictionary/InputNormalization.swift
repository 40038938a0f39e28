/// What SAELens's `normalize_activations` does to each activation on the way in, undone on the way
/// out.
public enum InputNormalization: String, Sendable {
  /// Nothing.
  case none
  /// x · √d / ‖x‖
  case constantNormRescale = "constant_norm_rescale"
  /// (x − mean) / (standard deviation with n − 1, plus 1e-5); out: · standard deviation + mean
  case layerNorm = "layer_norm"
}
