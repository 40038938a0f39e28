"""Writes the fixtures that none of the installed libraries writes: Gemma Scope 2, OpenAI's .pt, and
the classes of dictionary_learning whose training is not run here. Weights are random. The outputs
follow each library's forward pass, computed by PyTorch in float64.

    python3 make_fixtures.py        # needs torch, safetensors
"""

import json
import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file

here = os.path.dirname(os.path.abspath(__file__))
d, n, tokens, k = 16, 64, 32, 8


Tensors = dict[str, torch.Tensor]


def make(seed: int) -> tuple[Tensors, Callable[..., torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    weights = {
        "x": normal(tokens, d) + 0.5,
        "encoder": normal(n, d, scale=d**-0.5),
        "encoder_bias": normal(n, scale=0.1),
        "decoder": torch.nn.functional.normalize(normal(n, d), dim=1),
        "decoder_bias": normal(d, scale=0.3),
    }
    return weights, normal


def write_expected(
    path: str, x: torch.Tensor, codes: torch.Tensor, recon: torch.Tensor, **others: torch.Tensor
) -> None:
    tensors = {"x": x, "codes": codes, "recon": recon, **others}
    save_file({name: t.float().contiguous() for name, t in tensors.items()}, path)


def folder(name: str) -> str:
    path = os.path.join(here, name)
    os.makedirs(path, exist_ok=True)
    return path


def double(weights: Tensors) -> Tensors:
    return {name: tensor.double() for name, tensor in weights.items()}


def gemma_scope_2(name: str, seed: int, lower_case: bool) -> None:
    w, normal = make(seed)
    threshold = normal(n).abs()
    v = double(w)
    h = v["x"] @ v["encoder"].T + v["encoder_bias"]
    codes = torch.relu(h) * (h > threshold.double())
    path = folder(name)
    case = str.lower if lower_case else str
    save_file(
        {
            case("W_enc"): w["encoder"].T.contiguous(),
            case("W_dec"): w["decoder"],
            "b_enc": w["encoder_bias"],
            "b_dec": w["decoder_bias"],
            "threshold": threshold,
        },
        f"{path}/params.safetensors",
    )
    with open(f"{path}/config.json", "w") as file:
        json.dump(
            {
                "architecture": "jump_relu",
                "model_name": "gemma-3-1b-pt",
                "hf_hook_point_in": "model.layers.13.output",
                "hf_hook_point_out": "model.layers.13.output",
                "width": n,
            },
            file,
        )
    recon = codes @ v["decoder"] + v["decoder_bias"]
    write_expected(f"{path}/expected.safetensors", w["x"], codes, recon)


def dictionary_learning(
    name: str,
    dict_class: str,
    state: dict[str, Any],
    codes: torch.Tensor,
    recon: torch.Tensor,
    x: torch.Tensor,
) -> None:
    path = folder(name)
    torch.save(state, f"{path}/ae.pt")
    with open(f"{path}/config.json", "w") as file:
        json.dump(
            {"trainer": {"dict_class": dict_class, "activation_dim": d, "dict_size": n}}, file
        )
    write_expected(f"{path}/expected.safetensors", x, codes, recon)


def dictionary_learning_gated() -> None:
    w, normal = make(3)
    gate_bias, r_mag, mag_bias = normal(n, scale=0.3), normal(n, scale=0.3), w["encoder_bias"]
    v = double(w)
    u = (v["x"] - v["decoder_bias"]) @ v["encoder"].T
    codes = (u + gate_bias.double() > 0) * torch.relu(u * r_mag.double().exp() + mag_bias.double())
    dictionary_learning(
        "dictionary_learning_gated",
        "GatedAutoEncoder",
        {
            "decoder_bias": w["decoder_bias"],
            "r_mag": r_mag,
            "gate_bias": gate_bias,
            "mag_bias": mag_bias,
            "encoder.weight": w["encoder"],
            "decoder.weight": w["decoder"].T,  # stored by columns
        },
        codes,
        codes @ v["decoder"] + v["decoder_bias"],
        w["x"],
    )


def dictionary_learning_jumprelu() -> None:
    w, normal = make(4)
    threshold = normal(n).abs()
    v = double(w)
    h = v["x"] @ v["encoder"].T + v["encoder_bias"]
    codes = torch.relu(h) * (h > threshold.double())
    # Views of one storage, with an offset and gaps, and a vector of equal elements: a reader must
    # heed strides.
    both = torch.zeros(n, 3 * d)
    both[:, 1 : d + 1] = w["decoder"]
    dictionary_learning(
        "dictionary_learning_jumprelu",
        "JumpReluAutoEncoder",
        {
            "W_enc": w["encoder"].T,
            "b_enc": w["encoder_bias"],
            "W_dec": both[:, 1 : d + 1],
            "b_dec": w["decoder_bias"],
            "threshold": threshold,
        },
        codes,
        codes @ v["decoder"] + v["decoder_bias"],
        w["x"],
    )


def openai() -> None:
    path = folder("openai")
    w, normal = make(5)
    squares = normal(n).square()
    v = double(w)
    state = {
        "pre_bias": w["decoder_bias"],
        "latent_bias": w["encoder_bias"],
        "stats_last_nonzero": torch.zeros(n, dtype=torch.long),
        "latents_activation_frequency": torch.ones(n),
        "latents_mean_square": squares,
        "encoder.weight": w["encoder"],
        "decoder.weight": w["decoder"].T.contiguous(),
    }
    topk = {"activation": "TopK", "activation_state_dict": {"k": k, "postact_fn": "ReLU"}}
    relu = {"activation": "ReLU", "activation_state_dict": {}}
    torch.save({**state, **topk}, f"{path}/topk.pt")
    os.makedirs(f"{path}/relu", exist_ok=True)
    torch.save({**state, **relu}, f"{path}/relu/relu.pt")

    def pre(x: torch.Tensor) -> torch.Tensor:
        return (x - v["decoder_bias"]) @ v["encoder"].T + v["encoder_bias"]

    def decode(codes: torch.Tensor) -> torch.Tensor:
        return codes @ v["decoder"] + v["decoder_bias"]

    mean = v["x"].mean(-1, keepdim=True)
    deviation = (v["x"] - mean).std(-1, keepdim=True)
    top = torch.topk(pre((v["x"] - mean) / (deviation + 1e-5)), k, dim=-1)
    codes = torch.zeros(tokens, n, dtype=torch.float64)
    codes.scatter_(-1, top.indices, torch.relu(top.values))
    write_expected(
        f"{path}/expected.safetensors",
        w["x"],
        codes,
        decode(codes) * deviation + mean,
        latents_mean_square=squares,
    )
    codes = torch.relu(pre(v["x"]))
    write_expected(f"{path}/relu/expected.safetensors", w["x"], codes, decode(codes))


gemma_scope_2("gemma_scope_2", 1, lower_case=True)
gemma_scope_2("gemma_scope_2_upper_case", 2, lower_case=False)
dictionary_learning_gated()
dictionary_learning_jumprelu()
openai()
