#!/usr/bin/env python3
"""Granule's encoder against OpenBLAS and PyTorch in float32: milliseconds a batch, in one run.

Granule's encode bench draws the dictionary and the activations of each shape, measures itself
beside sgemm (sgemv for a batch of 1) with a top-k, and compares their active latents. PyTorch
encodes the same activations with relu(x W^T + b) and torch.topk. Granule and PyTorch take turns for
several rounds, and the median of each one's best round counts, so that a machine that is busy for a
moment harms neither. The sum of PyTorch's values must equal Granule's, because a fast wrong answer
is worth nothing. Needs torch and safetensors.

    python3 benchmarks/encode.py --quick
    python3 benchmarks/encode.py --shapes 576:16384:64,768:24576:32 --batches 1,16,256,4096
    python3 benchmarks/encode.py --batches 1,16,256,1024 --figure docs/speed-by-batch.svg
    python3 benchmarks/encode.py --shapes 576:16384:64 --batches 1024 --shares 1,2,4,8,16,32,64 \\
        --figure docs/speed-by-granularity.svg
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from command_line import add_threads_option, options_parser
from encode_report import (
    Key,
    Row,
    Shape,
    block_sizes,
    compared,
    figure,
    numbers,
    shapes,
    sums_agree,
    table,
)
from granule_program import bench_output
from machine import cpu_name, warn_if_busy

# Granule's bench compares the codes of at least this many tokens.
CHECKED_TOKENS = 64
TURN_SECONDS = 0.05
PAUSE_SECONDS = 0.05


class TorchEncoder:
    """relu((x - b_dec) W^T + b_enc), then the k largest, in blocks whose scores stay in bounds."""

    def __init__(self, folder: Path) -> None:
        weights = load_file(folder / "dictionary" / "sae_weights.safetensors")
        # Latent-major, as a linear layer stores it, is the faster layout.
        self.weights = weights["W_enc"].T.contiguous()
        self.bias, self.center = weights["b_enc"], weights["b_dec"]

    def encode(
        self, batch: torch.Tensor, granularity: int, k: int, size: int
    ) -> list[torch.return_types.topk]:
        weights, bias = self.weights[:granularity], self.bias[:granularity]
        return [
            torch.topk(F.linear(part - self.center, weights, bias).relu_(), k, sorted=False)
            for part in batch.split(size)
        ]

    def measure(
        self,
        activations: torch.Tensor,
        batch: int,
        granularity: int,
        k: int,
        size: int,
        repetitions: int,
    ) -> list[float]:
        """Seconds of every call that counts. If a turn has several, the first does not."""
        last = len(activations) - batch + 1

        def call(number: int) -> float:
            start = number * batch % last
            begin = time.perf_counter()
            self.encode(activations[start : start + batch], granularity, k, size)
            return time.perf_counter() - begin

        call(0)
        calls = max(1, round(TURN_SECONDS / call(0)))
        seconds = []
        for _ in range(repetitions):
            time.sleep(PAUSE_SECONDS)
            turn = [call(number) for number in range(calls + 1 if calls > 1 else 1)]
            seconds += turn[1:] if calls > 1 else turn
        return seconds

    def value_sum(
        self, activations: torch.Tensor, batch: int, granularity: int, k: int, size: int
    ) -> float:
        """Sum of the active values of the tokens that Granule's bench checks."""
        calls = max(1, min(CHECKED_TOKENS, len(activations)) // batch)
        values = 0.0
        for call in range(calls):
            for part in self.encode(activations[call * batch :][:batch], granularity, k, size):
                values += part.values.sum(dtype=torch.float64).item()
        return values


def run_granule(
    options: argparse.Namespace, shape: Shape, granularities: list[int], save: Path | None = None
) -> dict[Key, Row]:
    d_model, latents, k = shape
    output = bench_output(
        options.granule,
        "encode",
        "--d-model",
        str(d_model),
        "--latents",
        str(latents),
        "--k",
        str(k),
        "--batch",
        ",".join(map(str, options.batches)),
        "--granularities",
        ",".join(map(str, granularities)),
        "--data",
        options.data,
        "--repeat",
        str(options.repeat),
        "--threads",
        str(options.threads),
        "--json",
        *(["--save", str(save)] if save else []),
    )
    return {(row["batch"], row["granularity"]): row for row in json.loads(output)}


def measure_shape(options: argparse.Namespace, shape: Shape) -> list[Row]:
    """A row for each batch and granularity."""
    d_model, latents, _ = shape
    granularities = sorted({max(1, latents // share) for share in options.shares})
    ours: dict[Key, list[Row]] = {}
    theirs: dict[tuple[int, int, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="granule-bench-") as name:
        folder = Path(name)
        checked = run_granule(options, shape, granularities, save=folder)
        encoder = TorchEncoder(folder)
        activations = load_file(folder / "activations.safetensors")["activations"]
    for number in range(options.rounds):
        rows = run_granule(options, shape, granularities)
        for key, row in rows.items():
            ours.setdefault(key, []).append(row)
        for (batch, granularity), row in rows.items():
            for size in block_sizes(batch):
                seconds = encoder.measure(
                    activations, batch, granularity, row["k"], size, options.repeat
                )
                theirs.setdefault((batch, granularity, size), []).append(statistics.median(seconds))
            if number == 0:
                value = encoder.value_sum(activations, batch, granularity, row["k"], batch)
                if not sums_agree(row["value_sum"], value):
                    sys.exit(
                        f"d_model {d_model}, {latents} latents, batch {batch}, granularity "
                        f"{granularity}: the values' sum is {row['value_sum']} in Granule and "
                        f"{value} in PyTorch"
                    )
    return compared(shape, checked, ours, theirs)


def parse_options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    parser.add_argument(
        "--shapes",
        type=shapes,
        help="D_MODEL:LATENTS:K,… (default 576:16384:64,768:24576:32,2304:65536:64)",
    )
    parser.add_argument("--batches", type=numbers, help="tokens a call (default 1,16,256,1024)")
    parser.add_argument(
        "--shares",
        type=numbers,
        default=[1],
        help="granularities, as N divided by these (default 1: all latents)",
    )
    parser.add_argument(
        "--data",
        choices=["gaussian", "correlated"],
        default="correlated",
        help="distribution of the activations (default: correlated)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of Granule and of PyTorch")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions within each turn")
    add_threads_option(parser)
    parser.add_argument("--quick", action="store_true", help="one small shape, in seconds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--figure", type=Path, help="file for a plot of the ratios, as SVG")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.repeat = 2, 2
    options.shapes = options.shapes or shapes(
        "256:2048:32" if options.quick else "576:16384:64,768:24576:32,2304:65536:64"
    )
    options.batches = options.batches or ([1, 16, 256] if options.quick else [1, 16, 256, 1024])
    return options


def main() -> None:
    options = parse_options()
    if os.environ.pop("OPENBLAS_CORETYPE", None):
        print("Ignoring OPENBLAS_CORETYPE, because it would halve sgemm's speed", file=sys.stderr)
    warn_if_busy()
    torch.set_num_threads(options.threads)
    rows = []
    with torch.inference_mode():
        for shape in options.shapes:
            rows += measure_shape(options, shape)
    version = subprocess.run(
        [options.granule, "--version"], check=True, text=True, stdout=subprocess.PIPE
    ).stdout.strip()
    if options.figure:
        options.figure.write_text(figure(rows, options.threads))
    if options.json:
        report = {
            "granule": version,
            "torch": torch.__version__,
            "cpu": cpu_name(),
            "threads": options.threads,
            "data": options.data,
            "rows": rows,
        }
        print(json.dumps(report))
        return
    print(
        f"{cpu_name()}, {options.threads} threads; {options.data} activations\n"
        f"Granule {version}, PyTorch {torch.__version__}\n"
    )
    print(table(rows))
    print(
        "\nsgemm: OpenBLAS with a top-k, sgemv for a batch of 1. PyTorch: the faster of all tokens "
        "at once and 256 at a time."
    )


if __name__ == "__main__":
    main()
