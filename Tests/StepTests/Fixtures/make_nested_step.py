"""Computes with PyTorch what NestedStep and AdamOptimizer must compute: losses and gradients of one
batch by autograd, and the weights after five steps of torch.optim.AdamW, all in float64.

    pip install torch safetensors numpy
    python make_nested_step.py     # writes nested_step.safetensors beside this file
"""

import os

import torch
from safetensors.torch import save_file

D, N, K, TOKENS = 24, 60, 6, 32
GRANULARITIES, DEAD = [10, 25, 60], [3, 17, 30, 31, 44]
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
AUXILIARY, LEARNING_RATE, WEIGHT_DECAY, CLIP, STEPS = 1 / 32, 1e-2, 0.1, 0.05, 5

torch.manual_seed(1)
torch.set_default_dtype(torch.float64)
W_dec = torch.nn.functional.normalize(torch.randn(N, D), dim=1)
W_enc = W_dec + 0.05 * torch.randn(N, D)
b_enc, b_dec = 0.1 * torch.randn(N), 0.3 * torch.randn(D)
parameters = [p.float().double().requires_grad_() for p in (W_enc, b_enc, W_dec, b_dec)]
batch = (torch.randn(TOKENS, D) * torch.linspace(2, 0.2, D) + 0.5).float().double()


def variance(x: torch.Tensor) -> torch.Tensor:
    return ((x - x.mean(0)) ** 2).sum()


def losses(
    W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor, b_dec: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """FVU at each granularity, and the auxiliary loss."""
    h = (batch - b_dec) @ W_enc.T + b_enc
    values, indices = h.topk(K, dim=1)
    z = torch.zeros_like(h).scatter(1, indices, values.relu())
    reconstructions = [z[:, :g] @ W_dec[:g] + b_dec for g in GRANULARITIES]
    fvu = torch.stack([((batch - r) ** 2).sum() / variance(batch) for r in reconstructions])
    residual = (batch - reconstructions[-1]).detach()
    values, indices = h[:, DEAD].topk(min(D // 2, len(DEAD)), dim=1)
    z_dead = torch.zeros(TOKENS, len(DEAD)).scatter(1, indices, values.relu())
    auxiliary = ((residual - z_dead @ W_dec[DEAD]) ** 2).sum() / variance(residual)
    return fvu, auxiliary


def save(name: str) -> None:
    for key, value in zip(NAMES, parameters, strict=True):
        tensors[f"{name}.{key}"] = value.detach().clone()


tensors = {"batch": batch, "granularities": torch.tensor(GRANULARITIES), "dead": torch.tensor(DEAD)}
save("initial")
optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
norms = []
for step in range(STEPS):
    optimizer.zero_grad()
    fvu, auxiliary = losses(*parameters)
    (fvu.mean() + AUXILIARY * auxiliary).backward()
    if step == 0:
        tensors |= {"fvu": fvu.detach(), "auxiliary": auxiliary.detach().reshape(1)}
        for key, value in zip(NAMES, parameters, strict=True):
            tensors[f"gradient.{key}"] = value.grad.clone()
    W = parameters[2]
    W.grad -= (W.grad * W.data).sum(1, keepdim=True) * W.data
    norms.append(torch.nn.utils.clip_grad_norm_(parameters, CLIP))
    optimizer.step()
    W.data /= W.data.norm(dim=1, keepdim=True)
save("trained")
tensors["gradient_norms"] = torch.stack(norms)
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nested_step.safetensors")
save_file({key: value.contiguous() for key, value in tensors.items()}, path)
