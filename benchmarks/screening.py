#!/usr/bin/env python3
"""How many latents survive screening a real dictionary, by how its encoder is quantised.

For each way of preparing both sides of w · x before they are cut to 8 bits: the mean number of
latents a token that may still be among the k largest, by the rule that Granule uses (an upper bound
of each pre-activation reaches a verified guess of the k-th largest) and by the usual one (it reaches
the k-th largest lower bound). docs/encoder.md explains both. Needs numpy and safetensors.

    python3 benchmarks/screening.py runs/first/dictionary --activations activations/layer-10
"""
import argparse
import glob
import os

import numpy as np
from safetensors.numpy import load_file

from line_plot import line_plot

STATISTICS_TOKENS = 20_000
GUESS_DEVIATIONS = 3


def hadamard(order):
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(order)


def rotation(d_model):
    """Hadamard across the even part of the vectors of 16, Hartley across the odd, Hadamard within."""
    if d_model % 16:
        raise SystemExit(f"d_model is {d_model}: this script rotates multiples of 16 only")
    odd = d_model // 16
    while odd % 2 == 0:
        odd //= 2
    i = np.arange(odd)
    angles = 2 * np.pi * np.outer(i, i) / odd
    hartley = (np.cos(angles) + np.sin(angles)) / np.sqrt(odd)
    return np.kron(np.kron(hadamard(d_model // 16 // odd), hartley), hadamard(16))


def quantized(rows):
    scales = np.abs(rows).max(1, keepdims=True) / 127
    return np.round(rows / scales) * scales


def survivors(exact, weights, tokens, biases, extra, k):
    """By the verified guess and by the usual rule; and the share of tokens whose guess fails."""
    w, x = quantized(weights), quantized(tokens)
    norm = lambda rows: np.linalg.norm(rows, axis=1)
    errors = np.outer(norm(tokens), norm(weights - w)) + np.outer(norm(tokens - x), norm(w))
    estimates = x @ w.T + biases + extra
    kth = np.partition(estimates, -k, axis=1)[:, -k]
    guess = kth - GUESS_DEVIATIONS * (estimates - exact).std(1)
    usual = np.partition(estimates - errors, -k, axis=1)[:, -k]
    true_kth = np.partition(exact, -k, axis=1)[:, -k]
    bounds = estimates + errors
    return ((bounds >= guess[:, None]).sum(1).mean(), (bounds >= usual[:, None]).sum(1).mean(),
            (true_kth < guess).mean())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionary", help="a TopK dictionary folder")
    parser.add_argument("--activations", required=True, help="a folder of safetensors shards")
    parser.add_argument("--tokens", type=int, default=512, help="tokens that are screened")
    parser.add_argument("--k", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--figure", help="write a plot of the survivors here, as SVG")
    options = parser.parse_args()
    weights = load_file(os.path.join(options.dictionary, "sae_weights.safetensors"))
    encoder = weights["W_enc"].T.astype(np.float64)
    bias, decoder_bias = (weights[name].astype(np.float64) for name in ("b_enc", "b_dec"))
    shard = sorted(glob.glob(os.path.join(options.activations, "*.safetensors")))[-1]
    activations = load_file(shard)["activations"]
    fitted = activations[:STATISTICS_TOKENS].astype(np.float64) - decoder_bias
    tokens = activations[-options.tokens:].astype(np.float64) - decoder_bias
    mean, deviation = fitted.mean(0), fitted.std(0)
    exact = tokens @ encoder.T + bias
    spread = rotation(encoder.shape[1])
    ones, nothing, identity = np.ones_like(mean), np.zeros_like(mean), np.eye(len(mean))
    root_mean_square = lambda rows: np.sqrt((rows**2).mean(0))
    balance = np.sqrt(deviation / root_mean_square(encoder))
    guessed = np.sqrt(root_mean_square(weights["W_dec"].astype(np.float64))
                      / root_mean_square(encoder))

    values, directions = np.linalg.eigh(np.cov(fitted.T))
    directions = directions[:, ::-1]
    in_basis = encoder @ directions
    principal = np.sqrt(np.sqrt(values[::-1].clip(1e-12)) / root_mean_square(in_basis))

    def transformed(center, scales, turned, source=encoder, rows=None):
        rows = tokens - center if rows is None else rows
        return (source * scales) @ turned.T, (rows / scales) @ turned.T, bias + encoder @ center, 0

    def leading(count):
        """The leading principal directions exact, the rest in 8 bits."""
        kept = directions[:, :count]
        split = lambda rows: rows - (rows @ kept) @ kept.T
        rest = split(encoder)
        scales = np.sqrt(split(fitted - mean).std(0) / root_mean_square(rest))
        rows = tokens - mean
        parts = transformed(mean, scales, spread, rest, split(rows))
        return parts[:3] + ((rows @ kept) @ (encoder @ kept).T,)

    schemes = {
        "8 bits": transformed(nothing, ones, identity),
        "centred": transformed(mean, ones, identity),
        "centred, rotated": transformed(mean, ones, spread),
        "balanced by the decoder, rotated": transformed(nothing, guessed, spread),
        "centred, balanced": transformed(mean, balance, identity),
        "centred, balanced, rotated": transformed(mean, balance, spread),
        "PCA basis, balanced, rotated": transformed(
            mean, principal, spread, in_basis, (tokens - mean) @ directions),
        "16 leading directions exact": leading(16),
        "32 leading directions exact": leading(32),
    }
    print(f"{len(encoder):,} latents, {options.tokens} tokens; survivors by a verified guess (by the "
          "usual rule)\n")
    print(f"{'':34}" + "".join(f"{f'k = {k}':>18}" for k in options.k))
    series = {}
    for name, parts in schemes.items():
        cells = []
        for k in options.k:
            guess, usual, failed = survivors(exact, *parts, k)
            cells.append(f"{guess:8.0f} ({usual:6.0f})")
            series.setdefault(name, []).append((k, guess))
            if failed > 0.01:
                cells[-1] += "*"
        print(f"{name:34}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    if options.figure:
        shown = ["8 bits", "centred, rotated", "balanced by the decoder, rotated",
                 "centred, balanced, rotated", "PCA basis, balanced, rotated"]
        with open(options.figure, "w") as file:
            file.write(line_plot(
                "Latents that survive the screen", f"{len(encoder):,} latents, a token's mean",
                "k", "survivors", {name: series[name] for name in shown}, log_y=True))


if __name__ == "__main__":
    main()
