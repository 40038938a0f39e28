/// A place in a language model where activations are taken.
public enum HookPoint: Hashable, Sendable {
  /// What is taken at a block.
  public enum Site: String, Sendable, CaseIterable {
    /// The residual stream before the block; the number of blocks stands for what the last one leaves.
    case residual = "resid"
    /// What the block's MLP adds to the stream.
    case mlp
    /// What the block's attention adds to the stream.
    case attention

    /// The name of the place within a block that TransformerLens and SAELens use.
    fileprivate var hookName: String {
      switch self {
      case .residual: "hook_resid_pre"
      case .mlp: "hook_mlp_out"
      case .attention: "hook_attn_out"
      }
    }
  }

  /// At a block, counted from 0.
  case block(Int, Site)
  /// Under a name that is not of this form, which another library gave; "" if the place is unknown.
  case other(String)

  /// The place that a name stands for: `blocks.10.hook_resid_pre`, or any other library's name, which
  /// is kept as it is.
  public init(_ name: String) {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    let site = parts.count == 3 ? Site.allCases.first { $0.hookName == parts[2] } : nil
    // Only the canonical form, so that every name is written as it was read.
    if let site, parts[0] == "blocks", let layer = Int(parts[1]), layer >= 0,
      String(layer) == parts[1]
    {
      self = .block(layer, site)
    } else {
      self = .other(name)
    }
  }

  /// The name that TransformerLens and SAELens use, or another library's; "" if the place is unknown.
  public var name: String {
    switch self {
    case .block(let layer, let site): "blocks.\(layer).\(site.hookName)"
    case .other(let name): name
    }
  }

  /// Whether nothing is known of the place.
  public var isUnknown: Bool { self == .other("") }

  // MARK: Folders of harvests

  /// The folder in which a harvest writes the activations of a layer.
  public static func folderName(layer: Int) -> String { "layer-\(layer)" }

  /// The layer whose activations a harvest writes in a folder of this name; nil if it is a different one
  /// name.
  public static func layer(ofFolder name: String) -> Int? {
    let layer = name.split(separator: "-", maxSplits: 1).last.flatMap { Int($0) }
    return layer.flatMap { folderName(layer: $0) == name ? $0 : nil }
  }
}

extension HookPoint: CustomStringConvertible, ExpressibleByStringLiteral {
  /// The name.
  public var description: String { name }
  /// The place that a name stands for.
  public init(stringLiteral name: String) { self.init(name) }
}
