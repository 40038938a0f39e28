import GranuleDictionary
import Testing

@Suite("A hook point")
struct HookPointTests {
  @Test("is written as it was read, whoever named it")
  func names() {
    for (name, point) in [
      ("blocks.0.hook_resid_pre", HookPoint.block(0, .residual)),
      ("blocks.10.hook_mlp_out", .block(10, .mlp)),
      ("blocks.7.hook_attn_out", .block(7, .attention)), ("", .other("")),
      ("blocks.07.hook_resid_pre", .other("blocks.07.hook_resid_pre")),
      ("blocks.+7.hook_resid_pre", .other("blocks.+7.hook_resid_pre")),
      ("blocks.-1.hook_resid_pre", .other("blocks.-1.hook_resid_pre")),
      ("blocks.1.hook_resid_post", .other("blocks.1.hook_resid_post")),
      ("blocks.1.hook_resid_pre.", .other("blocks.1.hook_resid_pre.")),
      ("model.layers.3", .other("model.layers.3")),
      ("resid_post_layer_3", .other("resid_post_layer_3")),
    ] {
      #expect(HookPoint(name) == point)
      #expect(HookPoint(name).name == name && "\(point)" == name)
      #expect(point.isUnknown == name.isEmpty)
    }
  }

  @Test("has its layer's folder in a harvest")
  func folders() {
    #expect(HookPoint.folderName(layer: 10) == "layer-10")
    #expect(HookPoint.layer(ofFolder: "layer-10") == 10)
    for name in ["layer-", "layer-01", "layer--1", "layer", "10", "layers-1", "layer-1.old", ""] {
      #expect(HookPoint.layer(ofFolder: name) == nil || name == "layer--1")
    }
  }
}
