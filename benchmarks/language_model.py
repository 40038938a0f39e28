#!/usr/bin/env python3
"""Granule's language model against PyTorch's float32 operations: tokens a second, in one run.

Both run the same tokens through the same weights. They take turns for several rounds, so that a
busy machine slows both, and the fastest round of each counts. Losses and gradients are compared
first, because a fast wrong answer is worth nothing. Needs numpy and torch.

    python3 benchmarks/language_model.py --model SmolLM2-135M-Instruct.Q4_1.gguf
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from command_line import options_parser
from gguf import read_gguf
from granule_program import bench_output
from rounds import compared, keep_fastest


class Model:
    def __init__(self, path: Path, context: int) -> None:
        metadata, arrays = read_gguf(path)
        self.tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.blocks = metadata["llama.block_count"]
        self.heads = metadata["llama.attention.head_count"]
        self.shared = metadata["llama.attention.head_count_kv"]
        self.epsilon = metadata["llama.attention.layer_norm_rms_epsilon"]
        self.embedding = self.tensors["token_embd.weight"]
        self.output = self.tensors.get("output.weight", self.embedding)
        self.head = self.embedding.shape[1] // self.heads
        theta = metadata.get("llama.rope.freq_base", 10000.0)
        frequencies = theta ** (-torch.arange(0, self.head, 2, dtype=torch.float64) / self.head)
        angles = torch.arange(context, dtype=torch.float64)[:, None] * frequencies
        self.cosines, self.sines = angles.cos().float(), angles.sin().float()

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack(
            (even * self.cosines - odd * self.sines, even * self.sines + odd * self.cosines), -1
        ).flatten(-2)

    def block(self, number: int, x: torch.Tensor) -> torch.Tensor:
        def weight(name: str) -> torch.Tensor:
            return self.tensors[f"blk.{number}.{name}.weight"]

        def split(x: torch.Tensor, heads: int) -> torch.Tensor:
            return x.view(*x.shape[:2], heads, self.head).transpose(1, 2)

        width = (x.shape[-1],)
        normed = F.rms_norm(x, width, weight("attn_norm"), self.epsilon)
        query = self.rotate(split(F.linear(normed, weight("attn_q")), self.heads))
        key = self.rotate(split(F.linear(normed, weight("attn_k")), self.shared))
        value = split(F.linear(normed, weight("attn_v")), self.shared)
        group = self.heads // self.shared
        attended = F.scaled_dot_product_attention(
            query,
            key.repeat_interleave(group, 1),
            value.repeat_interleave(group, 1),
            is_causal=True,
        )
        x = x + F.linear(attended.transpose(1, 2).flatten(2), weight("attn_output"))
        normed = F.rms_norm(x, width, weight("ffn_norm"), self.epsilon)
        gated = F.silu(F.linear(normed, weight("ffn_gate"))) * F.linear(normed, weight("ffn_up"))
        return x + F.linear(gated, weight("ffn_down"))

    def advance(self, x: torch.Tensor, start: int, end: int) -> torch.Tensor:
        for number in range(start, end):
            x = self.block(number, x)
        return x

    def loss(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of every next token."""
        normed = F.rms_norm(x, (x.shape[-1],), self.tensors["output_norm.weight"], self.epsilon)
        # One sequence at a time, because all logits together are slower.
        losses = [
            F.cross_entropy(F.linear(row[:-1], self.output), ids[1:], reduction="sum")
            for row, ids in zip(normed, tokens, strict=True)
        ]
        return sum(losses) / (tokens.numel() - len(tokens))


def measure_torch(
    model: Model, tokens: torch.Tensor, layers: Sequence[int], repeats: int
) -> tuple[dict[str, float], float, float]:
    """Seconds of each kind of work, the mean loss, and the norm of its gradient."""
    results = {}

    def measure(work: str, body: Callable[[], float]) -> float:
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            value = body()
            best = min(best, time.perf_counter() - start)
        results[work] = best
        return value

    def forward(layer: int) -> float:
        model.advance(embedded, 0, layer)
        return 0

    def loss_of_all() -> float:
        return float(model.loss(model.advance(embedded, 0, model.blocks), tokens).item())

    def backward() -> float:
        leaf = hidden.clone().requires_grad_()
        model.loss(model.advance(leaf, layers[-1], model.blocks), tokens).backward()
        return float(leaf.grad.norm().item())

    with torch.inference_mode():
        embedded = model.embedding[tokens]
        for layer in layers:
            measure(f"forward to block {layer}", partial(forward, layer))
        loss = measure("forward with loss", loss_of_all)
    with torch.no_grad():
        hidden = model.advance(model.embedding[tokens], 0, layers[-1])
    norm = measure(f"forward and backward from block {layers[-1]}", backward)
    return results, loss, norm


def parse_options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    parser.add_argument(
        "--model", type=Path, required=True, help="a GGUF file of F32, Q4_1 and Q8_0 tensors"
    )
    parser.add_argument("--layers", default="10,15", help="blocks to run up to (default: 10,15)")
    parser.add_argument("--context", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--sequences", type=int, default=4, help="number of sequences")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def drawn_tokens(sequences: int, context: int, vocabulary: int) -> torch.Tensor:
    """The tokens that Granule's bench runs, [sequences, context]."""
    numbers = np.arange(sequences * context, dtype=np.uint32) * np.uint32(2654435761)
    tokens = torch.from_numpy((numbers % np.uint32(vocabulary)).astype(np.int64))
    return tokens.view(sequences, context)


def main() -> None:
    options = parse_options()
    layers = [int(layer) for layer in options.layers.split(",")]
    torch.set_num_threads(os.cpu_count())
    model = Model(options.model, options.context)
    tokens = drawn_tokens(options.sequences, options.context, model.embedding.shape[0])
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for _ in range(options.rounds):
        outcome = json.loads(
            bench_output(
                options.granule,
                "model",
                "--model",
                str(options.model),
                "--layer",
                options.layers,
                "--context",
                str(options.context),
                "--sequences",
                str(options.sequences),
                "--repeat",
                "2",
                "--json",
            )
        )
        keep_fastest(ours, {row["work"]: row["seconds"] for row in outcome["measurements"]})
        results, loss, norm = measure_torch(model, tokens, layers, 2)
        keep_fastest(theirs, results)
        for name, value, expected in (
            ("loss", outcome["mean_loss"], loss),
            ("gradient's norm", outcome["gradient_norm"], norm),
        ):
            if abs(value - expected) > 1e-4 * abs(expected):
                sys.exit(f"the {name} is {value} in Granule and {expected} in PyTorch")
    rows = compared(ours, theirs, options.sequences * options.context)
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"{options.sequences} sequences of {options.context} tokens, {os.cpu_count()} cores, "
        f"PyTorch {torch.__version__}; loss {loss:.4f} in both\n"
    )
    print(f"{'work':36} {'Granule':>10} {'PyTorch':>10} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['work']:36} {row['granule_tokens_per_second']:10,.0f} "
            f"{row['torch_tokens_per_second']:10,.0f} {row['ratio']:6.2f}"
        )


if __name__ == "__main__":
    main()
