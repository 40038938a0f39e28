"""Writes attribution.safetensors: the attributions that PyTorch's autograd computes for a small
Llama with the first latents of a small dictionary spliced in before its second block. Needs torch
and safetensors."""

import torch
from safetensors.torch import save_file

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)
BLOCKS, D, FF, HEADS, KV, HEAD, VOCABULARY, THETA, EPS = 2, 16, 24, 4, 2, 4, 40, 10000.0, 1e-5
LATENTS, GRANULARITY, LAYER = 48, 20, 1
LENGTHS = [31, 2, 18]


def single(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape) * scale).float().double()


w = {
    "token_embedding": single(VOCABULARY, D),
    "output_norm": 1 + single(D, scale=0.2).float().double(),
    "output": single(VOCABULARY, D, scale=D**-0.5),
}
for b in range(BLOCKS):
    for name, shape in [
        ("query", (HEADS * HEAD, D)),
        ("key", (KV * HEAD, D)),
        ("value", (KV * HEAD, D)),
        ("attention_output", (D, HEADS * HEAD)),
        ("gate", (FF, D)),
        ("up", (FF, D)),
        ("down", (D, FF)),
    ]:
        w[f"{b}.{name}"] = single(*shape, scale=shape[1] ** -0.5)
    for name in ["attention_norm", "feed_forward_norm"]:
        w[f"{b}.{name}"] = 1 + single(D, scale=0.2)
w = {k: v.float().double() for k, v in w.items()}
decoder = single(LATENTS, D)
decoder = (decoder / decoder.norm(dim=1, keepdim=True)).float().double()
sae = {
    "W_enc": (decoder * 1.5 + single(LATENTS, D, scale=0.1)).float().double(),
    "W_dec": decoder,
    "b_enc": single(LATENTS, scale=0.2),
    "b_dec": single(D, scale=0.2),
    "threshold": (torch.rand(LATENTS) * 1.2).float().double(),
}
sae["threshold"][:5] = 0


def norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * scale


def rotate(x: torch.Tensor) -> torch.Tensor:
    """x: [heads, positions, HEAD]; adjacent elements are pairs."""
    positions = torch.arange(x.shape[1])[:, None]
    angle = positions * THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack(
        [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1
    ).flatten(-2)


def block(x: torch.Tensor, b: int) -> torch.Tensor:
    h = norm(x, w[f"{b}.attention_norm"])
    q, k, v = (
        (h @ w[f"{b}.{n}"].T).unflatten(-1, (-1, HEAD)).transpose(0, 1)
        for n in ["query", "key", "value"]
    )
    q, k = rotate(q), rotate(k).repeat_interleave(HEADS // KV, 0)
    scores = q @ k.transpose(1, 2) / HEAD**0.5
    scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf"))
    attended = (scores.softmax(-1) @ v.repeat_interleave(HEADS // KV, 0)).transpose(0, 1).flatten(1)
    x = x + attended @ w[f"{b}.attention_output"].T
    h = norm(x, w[f"{b}.feed_forward_norm"])
    return (
        x
        + (torch.nn.functional.silu(h @ w[f"{b}.gate"].T) * (h @ w[f"{b}.up"].T)) @ w[f"{b}.down"].T
    )


tokens, attributions, active, losses = [], [], [], []
for length in LENGTHS:
    ids = torch.randint(0, VOCABULARY, (length,))
    tokens.append(ids)
    x = w["token_embedding"][ids]
    for b in range(LAYER):
        x = block(x, b)
    pre = (x - sae["b_dec"]) @ sae["W_enc"].T + sae["b_enc"]
    z = torch.where((pre > sae["threshold"]) & (pre > 0), pre, 0.0)[:, :GRANULARITY].detach()
    z.requires_grad_()
    spliced = torch.cat([x[:1], (z @ sae["W_dec"][:GRANULARITY] + sae["b_dec"])[1:]])
    for b in range(LAYER, BLOCKS):
        spliced = block(spliced, b)
    logits = norm(spliced, w["output_norm"]) @ w["output"].T
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
    loss.sum().backward()
    losses.append(loss.detach())
    attributions.append((z.grad * z.detach())[1:])
    active.append((z.detach() > 0)[1:])
# A sequence's last token counts for activity too, although its attributions are all 0.
attributions, active = torch.cat(attributions), torch.cat(active)
q_active = torch.stack(
    [
        torch.quantile(column[mask].abs(), 0.9) if mask.any() else torch.tensor(0.0)
        for column, mask in zip(attributions.T, active.T, strict=True)
    ]
)
tensors = {f"model.{k}": v.float() for k, v in w.items()}
tensors |= {f"sae.{k}": v.float() for k, v in sae.items()}
tensors |= {
    "tokens": torch.cat(tokens).int(),
    "lengths": torch.tensor(LENGTHS),
    "attributions": attributions,
    "active": active.sum(0),
    "mean_abs": attributions.abs().mean(0),
    "quantile_active": q_active,
    "quantile_all": torch.quantile(attributions.abs(), 0.9, dim=0),
    "cross_entropy": torch.cat(losses).mean().reshape(1),
}
save_file(
    {k: v.contiguous() for k, v in tensors.items()},
    __file__.replace("make_attribution.py", "attribution.safetensors"),
)
print(active.double().mean().item(), tensors["cross_entropy"])
