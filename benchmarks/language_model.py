#!/usr/bin/env python3
"""Granule's language model against PyTorch's float32 operations: tokens a second, in one run.

Both run the same tokens through the same weights, one after the other, several rounds in turn, so
that a busy machine is busy for both; of each the fastest counts. Losses and gradients are compared
first: a fast wrong answer is none. Needs numpy and torch.

    python3 benchmarks/language_model.py --model SmolLM2-135M-Instruct.Q4_1.gguf
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F


def read_gguf(path):
    """Metadata and float32 tensors of a GGUF file with F32, Q4_1 and Q8_0 tensors."""
    data = np.memmap(path, np.uint8, "r")
    at = 0

    def take(format):
        nonlocal at
        (value,) = struct.unpack_from("<" + format, data, at)
        at += struct.calcsize("<" + format)
        return value

    def text():
        nonlocal at
        length = take("Q")
        at += length
        return bytes(data[at - length:at]).decode("utf-8", "replace")

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            kind, count = take("I"), take("Q")
            return [value(kind) for _ in range(count)]
        return take({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?",
                     10: "Q", 11: "q", 12: "d"}[kind])

    assert take("I") == 0x46554747 and take("I") == 3, "no GGUF version 3"
    tensor_count, metadata_count = take("Q"), take("Q")
    metadata = {}
    for _ in range(metadata_count):
        key = text()
        metadata[key] = value(take("I"))
    infos = []
    for _ in range(tensor_count):
        name = text()
        shape = [take("Q") for _ in range(take("I"))][::-1]
        infos.append((name, shape, take("I"), take("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = (at + alignment - 1) // alignment * alignment
    tensors = {}
    for name, shape, kind, offset in infos:
        count = int(np.prod(shape))
        raw = data[start + offset:]
        if kind == 0:
            values = raw[:count * 4].view(np.float32)
        elif kind == 3:  # Q4_1: scale, minimum, 32 × 4 bits
            blocks = raw[:count // 32 * 20].reshape(-1, 20)
            scale, minimum = (blocks[:, i:i + 2].copy().view(np.float16).astype(np.float32)
                              for i in (0, 2))
            nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
            values = nibbles * scale + minimum
        elif kind == 8:  # Q8_0: scale, 32 × int8
            blocks = raw[:count // 32 * 34].reshape(-1, 34)
            scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
            values = blocks[:, 2:].copy().view(np.int8) * scale
        else:
            sys.exit(f"{name}: element type {kind} is not read here")
        tensors[name] = torch.from_numpy(np.array(values, np.float32).reshape(shape))
    return metadata, tensors


class Model:
    def __init__(self, path, context):
        metadata, self.tensors = read_gguf(path)
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

    def rotate(self, x):
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * self.cosines - odd * self.sines,
                            even * self.sines + odd * self.cosines), -1).flatten(-2)

    def block(self, number, x):
        def weight(name):
            return self.tensors[f"blk.{number}.{name}.weight"]

        def split(x, heads):
            return x.view(*x.shape[:2], heads, self.head).transpose(1, 2)

        width = (x.shape[-1],)
        normed = F.rms_norm(x, width, weight("attn_norm"), self.epsilon)
        query = self.rotate(split(F.linear(normed, weight("attn_q")), self.heads))
        key = self.rotate(split(F.linear(normed, weight("attn_k")), self.shared))
        value = split(F.linear(normed, weight("attn_v")), self.shared)
        group = self.heads // self.shared
        attended = F.scaled_dot_product_attention(
            query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1),
            is_causal=True)
        x = x + F.linear(attended.transpose(1, 2).flatten(2), weight("attn_output"))
        normed = F.rms_norm(x, width, weight("ffn_norm"), self.epsilon)
        gated = F.silu(F.linear(normed, weight("ffn_gate"))) * F.linear(normed, weight("ffn_up"))
        return x + F.linear(gated, weight("ffn_down"))

    def advance(self, x, start, end):
        for number in range(start, end):
            x = self.block(number, x)
        return x

    def loss(self, x, tokens):
        normed = F.rms_norm(x, (x.shape[-1],), self.tensors["output_norm.weight"], self.epsilon)
        # A sequence at a time: all logits together are slower.
        losses = [F.cross_entropy(F.linear(row[:-1], self.output), ids[1:], reduction="sum")
                  for row, ids in zip(normed, tokens)]
        return sum(losses) / (tokens.numel() - len(tokens))


def measure_torch(model, tokens, layers, repeats):
    results = {}

    def measure(work, body):
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            value = body()
            best = min(best, time.perf_counter() - start)
        results[work] = best
        return value

    with torch.inference_mode():
        embedded = model.embedding[tokens]
        for layer in layers:
            measure(f"forward to block {layer}", lambda: model.advance(embedded, 0, layer))
        loss = measure(
            "forward with loss",
            lambda: model.loss(model.advance(embedded, 0, model.blocks), tokens).item())
    with torch.no_grad():
        hidden = model.advance(model.embedding[tokens], 0, layers[-1])

    def backward():
        leaf = hidden.clone().requires_grad_()
        model.loss(model.advance(leaf, layers[-1], model.blocks), tokens).backward()
        return leaf.grad.norm().item()

    norm = measure(f"forward and backward from block {layers[-1]}", backward)
    return results, loss, norm


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a GGUF file of F32, Q4_1 and Q8_0 tensors")
    parser.add_argument("--granule", default=os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", ".build", "release", "granule"))
    parser.add_argument("--layers", default="10,15")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    layers = [int(layer) for layer in options.layers.split(",")]
    torch.set_num_threads(os.cpu_count())
    model = Model(options.model, options.context)
    count = options.sequences * options.context
    numbers = np.arange(count, dtype=np.uint32) * np.uint32(2654435761)
    tokens = torch.from_numpy((numbers % np.uint32(model.embedding.shape[0])).astype(np.int64))
    tokens = tokens.view(options.sequences, options.context)

    ours, theirs = {}, {}
    for _ in range(options.rounds):
        output = subprocess.run(
            [options.granule, "bench", "model", "--model", options.model, "--layer",
             options.layers, "--context", str(options.context), "--sequences",
             str(options.sequences), "--repeat", "2", "--json"],
            check=True, stdout=subprocess.PIPE).stdout
        outcome = json.loads(output)
        for row in outcome["measurements"]:
            ours[row["work"]] = min(row["seconds"], ours.get(row["work"], float("inf")))
        results, loss, norm = measure_torch(model, tokens, layers, 2)
        for work, seconds in results.items():
            theirs[work] = min(seconds, theirs.get(work, float("inf")))
        for name, value, expected in (("loss", outcome["mean_loss"], loss),
                                      ("gradient's norm", outcome["gradient_norm"], norm)):
            if abs(value - expected) > 1e-4 * abs(expected):
                sys.exit(f"the {name} is {value} in Granule and {expected} in PyTorch")

    rows = [{"work": work, "granule_tokens_per_second": count / ours[work],
             "torch_tokens_per_second": count / theirs[work], "ratio": theirs[work] / ours[work]}
            for work in ours]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{options.sequences} sequences of {options.context} tokens, {os.cpu_count()} cores, "
          f"PyTorch {torch.__version__}; loss {loss:.4f} in both\n")
    print(f"{'work':36} {'Granule':>10} {'PyTorch':>10} {'ratio':>6}")
    for row in rows:
        print(f"{row['work']:36} {row['granule_tokens_per_second']:10,.0f} "
              f"{row['torch_tokens_per_second']:10,.0f} {row['ratio']:6.2f}")


if __name__ == "__main__":
    main()
