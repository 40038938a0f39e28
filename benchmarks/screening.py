#!/usr/bin/env python3
"""How many latents survive screening a real dictionary, for several ways to quantise its encoder.

Each way prepares both sides of w · x before they are cut to 8 bits. The table shows the mean number
of latents a token that may still be among the k largest: first by Granule's rule (an upper bound of
the pre-activation reaches a verified guess of the k-th largest), then by the usual one (it reaches
the k-th largest lower bound). docs/encoder.md explains both. Needs numpy and safetensors.

    python3 benchmarks/screening.py runs/first/dictionary --activations activations/layer-10
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from command_line import HelpFormatter
from line_plot import line_plot

STATISTICS_TOKENS = 20_000
GUESS_DEVIATIONS = 3
SHOWN = [
    "8 bits",
    "centred, rotated",
    "balanced by the decoder, rotated",
    "centred, balanced, rotated",
    "PCA basis, balanced, rotated",
]

Array = npt.NDArray[np.float64]


def hadamard(order: int) -> Array:
    """The orthogonal Hadamard matrix of an order that is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(order))


def rotation(d_model: int) -> Array:
    """An orthogonal matrix. With vectors of 16 it is Hadamard within each, Hartley across the odd
    part of their number, and Hadamard across the even part."""
    if d_model % 16:
        raise SystemExit(f"d_model is {d_model}: this script rotates multiples of 16 only")
    odd = d_model // 16
    while odd % 2 == 0:
        odd //= 2
    i = np.arange(odd)
    angles = 2 * np.pi * np.outer(i, i) / odd
    hartley = (np.cos(angles) + np.sin(angles)) / np.sqrt(odd)
    across = np.kron(hadamard(d_model // 16 // odd), hartley)
    return np.asarray(np.kron(across, hadamard(16)), dtype=np.float64)


def quantized(rows: Array) -> Array:
    """Each row rounded to 127 steps on either side of 0."""
    scales = np.abs(rows).max(1, keepdims=True) / 127
    return np.asarray(np.round(rows / scales) * scales)


def norms(rows: Array) -> Array:
    return np.asarray(np.linalg.norm(rows, axis=1), dtype=np.float64)


def root_mean_square(rows: Array) -> Array:
    return np.asarray(np.sqrt((rows**2).mean(0)))


@dataclass
class Scheme:
    """Both sides of the products as they are quantised, and what is added to the products exactly:
    weights · tokens + biases + extra are the pre-activations."""

    weights: Array
    tokens: Array
    biases: Array
    extra: Array | float = 0


def survivors(exact: Array, scheme: Scheme, k: int) -> tuple[float, float, float]:
    """Mean survivors by the verified guess and by the usual rule, and the share of tokens whose
    guess fails. exact: pre-activations, [tokens, latents]."""
    w, x = quantized(scheme.weights), quantized(scheme.tokens)
    errors = np.outer(norms(scheme.tokens), norms(scheme.weights - w))
    errors += np.outer(norms(scheme.tokens - x), norms(w))
    estimates = x @ w.T + scheme.biases + scheme.extra
    kth = np.partition(estimates, -k, axis=1)[:, -k]
    guess = kth - GUESS_DEVIATIONS * (estimates - exact).std(1)
    usual = np.partition(estimates - errors, -k, axis=1)[:, -k]
    true_kth = np.partition(exact, -k, axis=1)[:, -k]
    bounds = estimates + errors
    return (
        float((bounds >= guess[:, None]).sum(1).mean()),
        float((bounds >= usual[:, None]).sum(1).mean()),
        float((true_kth < guess).mean()),
    )


@dataclass
class Problem:
    """A dictionary's encoder, [latents, d_model], its bias, the decoder's weights, and centred
    tokens: those that are screened, and those that statistics are taken from."""

    encoder: Array
    bias: Array
    decoder: Array
    tokens: Array
    fitted: Array

    def exact(self) -> Array:
        return self.tokens @ self.encoder.T + self.bias

    def scheme(
        self,
        center: Array,
        scales: Array,
        turned: Array,
        source: Array | None = None,
        rows: Array | None = None,
    ) -> Scheme:
        """Subtracts `center` from the tokens, multiplies the weights by the scales, divides the
        tokens by them, and rotates both. source and rows replace the encoder and the tokens."""
        source = self.encoder if source is None else source
        rows = self.tokens - center if rows is None else rows
        return Scheme(
            (source * scales) @ turned.T,
            (rows / scales) @ turned.T,
            self.bias + self.encoder @ center,
        )

    def leading(self, count: int, directions: Array, spread: Array) -> Scheme:
        """The leading principal directions exact, the rest in 8 bits."""
        kept, mean = directions[:, :count], self.fitted.mean(0)

        def without(rows: Array) -> Array:
            return rows - (rows @ kept) @ kept.T

        rest = without(self.encoder)
        scales = np.sqrt(without(self.fitted - mean).std(0) / root_mean_square(rest))
        rows = self.tokens - mean
        scheme = self.scheme(mean, scales, spread, rest, without(rows))
        scheme.extra = (rows @ kept) @ (self.encoder @ kept).T
        return scheme

    def schemes(self) -> dict[str, Scheme]:
        mean, deviation = self.fitted.mean(0), self.fitted.std(0)
        spread = rotation(self.encoder.shape[1])
        ones, nothing, identity = np.ones_like(mean), np.zeros_like(mean), np.eye(len(mean))
        balance = np.sqrt(deviation / root_mean_square(self.encoder))
        guessed = np.sqrt(root_mean_square(self.decoder) / root_mean_square(self.encoder))
        values, directions = np.linalg.eigh(np.cov(self.fitted.T))
        directions = directions[:, ::-1]
        in_basis = self.encoder @ directions
        principal = np.sqrt(np.sqrt(values[::-1].clip(1e-12)) / root_mean_square(in_basis))
        return {
            "8 bits": self.scheme(nothing, ones, identity),
            "centred": self.scheme(mean, ones, identity),
            "centred, rotated": self.scheme(mean, ones, spread),
            "balanced by the decoder, rotated": self.scheme(nothing, guessed, spread),
            "centred, balanced": self.scheme(mean, balance, identity),
            "centred, balanced, rotated": self.scheme(mean, balance, spread),
            "PCA basis, balanced, rotated": self.scheme(
                mean, principal, spread, in_basis, (self.tokens - mean) @ directions
            ),
            "16 leading directions exact": self.leading(16, directions, spread),
            "32 leading directions exact": self.leading(32, directions, spread),
        }


def load(dictionary: Path, activations: Path, tokens: int) -> Problem:
    weights = load_file(dictionary / "sae_weights.safetensors")
    encoder, bias, decoder, center = (
        weights[name].astype(np.float64) for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )
    shard = max(activations.glob("*.safetensors"))
    rows = load_file(shard)["activations"]
    fitted = rows[:STATISTICS_TOKENS].astype(np.float64) - center
    screened = rows[-tokens:].astype(np.float64) - center
    return Problem(encoder.T, bias, decoder, screened, fitted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("dictionary", type=Path, help="folder of a TopK dictionary")
    parser.add_argument(
        "--activations", type=Path, required=True, help="a folder of safetensors shards"
    )
    parser.add_argument("--tokens", type=int, default=512, help="number of tokens to screen")
    parser.add_argument(
        "--k",
        type=int,
        nargs="+",
        default=[16, 64, 256],
        help="numbers of active latents (default: 16 64 256)",
    )
    parser.add_argument("--figure", type=Path, help="file for a plot of the survivors, as SVG")
    options = parser.parse_args()
    problem = load(options.dictionary, options.activations, options.tokens)
    latents, exact = len(problem.encoder), problem.exact()
    print(
        f"{latents:,} latents, {options.tokens} tokens; survivors by a verified guess (by the "
        "usual rule)\n"
    )
    print(f"{'':34}" + "".join(f"{f'k = {k}':>18}" for k in options.k))
    series: dict[str, list[tuple[float, float]]] = {}
    for name, scheme in problem.schemes().items():
        cells = []
        for k in options.k:
            guess, usual, failed = survivors(exact, scheme, k)
            cells.append(f"{guess:8.0f} ({usual:6.0f})" + ("*" if failed > 0.01 else ""))
            series.setdefault(name, []).append((k, guess))
        print(f"{name:34}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    if options.figure:
        options.figure.write_text(
            line_plot(
                "Latents that survive the screen",
                f"{latents:,} latents, a token's mean",
                "k",
                "survivors",
                {name: series[name] for name in SHOWN},
                log_y=True,
            )
        )


if __name__ == "__main__":
    main()
