#!/usr/bin/env python3
"""Granule's encoder against OpenBLAS and PyTorch in float32: milliseconds a batch, in one run.

Each shape's dictionary and activations are drawn by `granule bench encode`, which measures Granule
beside sgemm (sgemv for a batch of 1) with a top-k and compares their active latents; PyTorch encodes
the same ones, relu(x W^T + b) and torch.topk. The two take turns for several rounds; of each the
median of its best round counts, so that a machine that is busy for a moment harms none. The sum of
PyTorch's values must be Granule's: a fast wrong answer is none. Needs torch and safetensors.

    python3 benchmarks/encode.py --quick
    python3 benchmarks/encode.py --shapes 576:16384:64,768:24576:32 --batches 1,16,256,4096
    python3 benchmarks/encode.py --batches 1,16,256,1024 --figure docs/speed-by-batch.svg
    python3 benchmarks/encode.py --shapes 576:16384:64 --batches 1024 --shares 1,2,4,8,16,32,64 \
        --figure docs/speed-by-granularity.svg
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from line_plot import line_plot

# As `granule bench encode` does it: codes of at least so many tokens are compared.
CHECKED_TOKENS = 64
TURN_SECONDS = 0.05
PAUSE_SECONDS = 0.05


class TorchEncoder:
    """relu((x - b_dec) W^T + b_enc), then the k largest, in blocks whose scores stay in bounds."""

    def __init__(self, folder):
        weights = load_file(os.path.join(folder, "dictionary", "sae_weights.safetensors"))
        # Latent-major, as a linear layer has it: the faster of the two.
        self.weights = weights["W_enc"].T.contiguous()
        self.bias, self.center = weights["b_enc"], weights["b_dec"]

    def encode(self, batch, granularity, k, size):
        weights, bias = self.weights[:granularity], self.bias[:granularity]
        return [torch.topk(F.linear(part - self.center, weights, bias).relu_(), k, sorted=False)
                for part in batch.split(size)]

    def measure(self, activations, batch, granularity, k, size, repetitions):
        """Seconds of every call that counts: the first of several in a turn does not."""
        last = len(activations) - batch + 1

        def call(number):
            start = number * batch % last
            begin = time.perf_counter()
            self.encode(activations[start:start + batch], granularity, k, size)
            return time.perf_counter() - begin

        call(0)
        calls = max(1, round(TURN_SECONDS / call(0)))
        seconds = []
        for _ in range(repetitions):
            time.sleep(PAUSE_SECONDS)
            turn = [call(number) for number in range(calls + 1 if calls > 1 else 1)]
            seconds += turn[1:] if calls > 1 else turn
        return seconds

    def value_sum(self, activations, batch, granularity, k, size):
        """Of the tokens that `granule bench encode` checks."""
        calls = max(1, min(CHECKED_TOKENS, len(activations)) // batch)
        return sum(part.values.sum(dtype=torch.float64).item()
                   for call in range(calls)
                   for part in self.encode(activations[call * batch:][:batch], granularity, k, size))


def run_granule(options, shape, granularities, save=None):
    d_model, latents, k = shape
    command = [
        options.granule, "bench", "encode", "--d-model", str(d_model), "--latents", str(latents),
        "--k", str(k), "--batch", ",".join(map(str, options.batches)), "--granularities",
        ",".join(map(str, granularities)), "--data", options.data, "--repeat",
        str(options.repeat), "--threads", str(options.threads), "--json"]
    output = subprocess.run(command + (["--save", save] if save else []), check=True,
                            stdout=subprocess.PIPE).stdout
    return {(row["batch"], row["granularity"]): row for row in json.loads(output)}


def measure_shape(options, shape):
    """A row for each batch and granularity."""
    d_model, latents, _ = shape
    granularities = sorted({max(1, latents // share) for share in options.shares})
    ours, theirs = {}, {}
    with tempfile.TemporaryDirectory(prefix="granule-bench-") as folder:
        first = run_granule(options, shape, granularities, save=folder)
        encoder = TorchEncoder(folder)
        activations = load_file(os.path.join(folder, "activations.safetensors"))["activations"]
    for number in range(options.rounds):
        rows = run_granule(options, shape, granularities)
        for key, row in rows.items():
            ours.setdefault(key, []).append(row)
        for (batch, granularity), row in rows.items():
            # All at once, and in blocks as the sgemm baseline has them: the faster counts.
            for size in sorted({batch, min(batch, 256)}):
                key = (batch, granularity, size)
                theirs.setdefault(key, []).append(statistics.median(encoder.measure(
                    activations, batch, granularity, row["k"], size, options.repeat)))
            if number == 0:
                value = encoder.value_sum(activations, batch, granularity, row["k"], batch)
                if abs(value - row["value_sum"]) > 1e-5 * abs(value) + 1e-3:
                    sys.exit(f"d_model {d_model}, {latents} latents, batch {batch}, granularity "
                             f"{granularity}: the values' sum is {row['value_sum']} in Granule and "
                             f"{value} in PyTorch")
    result = []
    for (batch, granularity), rows in ours.items():
        ms = min(row["ms"] for row in rows)
        sgemm_ms = min(row["sgemm_ms"] for row in rows)
        torch_ms = 1000 * min(min(theirs[batch, granularity, size])
                              for size in {batch, min(batch, 256)})
        checked = first[batch, granularity]
        result.append({
            "d_model": d_model, "latents": latents, "batch": batch, "granularity": granularity,
            "k": checked["k"], "ms": ms, "sgemm_ms": sgemm_ms, "torch_ms": torch_ms,
            "speedup_sgemm": sgemm_ms / ms, "speedup_torch": torch_ms / ms,
            "survivors_per_token": checked["survivors_per_token"],
            "fallbacks": checked["fallbacks"],
            "tokens_that_differ": checked["tokens_that_differ"]})
    return result


def figure(rows, threads):
    """Ratios against the batch; where there are several granularities, against those."""
    by_granularity = len({row["granularity"] / row["latents"] for row in rows}) > 1
    series = {}
    for row in rows:
        shape = f"{row['d_model']} × {row['latents']}"
        x = row["granularity"] / row["latents"] if by_granularity else row["batch"]
        for peer in ("sgemm", "torch"):
            name = {"sgemm": "sgemm + top-k", "torch": "PyTorch"}[peer]
            series.setdefault(f"{name}, {shape}", []).append((x, row[f"speedup_{peer}"]))
    series = {name: sorted(points) for name, points in series.items()}
    return line_plot(
        "Encoding: times as fast as", f"{cpu_name()}, {threads} threads",
        "granularity, as a share of the latents" if by_granularity else "tokens a call",
        "their time / Granule's", series)


def cpu_name():
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":")[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def shapes(text):
    result = [tuple(int(number) for number in shape.split(":")) for shape in text.split(",")]
    if any(len(shape) != 3 for shape in result):
        raise argparse.ArgumentTypeError("shapes are D_MODEL:LATENTS:K, with commas between")
    return result


def numbers(text):
    return sorted({int(number) for number in text.split(",")})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--granule", default=os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", ".build", "release", "granule"))
    parser.add_argument("--shapes", type=shapes, help="D_MODEL:LATENTS:K,… "
                        "(default 576:16384:64,768:24576:32,2304:65536:64)")
    parser.add_argument("--batches", type=numbers, help="tokens a call (default 1,16,256,1024)")
    parser.add_argument("--shares", type=numbers, default=[1],
                        help="granularities, as N divided by these (default 1: all latents)")
    parser.add_argument("--data", choices=["gaussian", "correlated"], default="correlated")
    parser.add_argument("--rounds", type=int, default=3, help="turns of Granule and of PyTorch")
    parser.add_argument("--repeat", type=int, default=3, help="turns within each")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="one small shape, seconds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--figure", help="write a plot of the ratios here, as SVG")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.repeat = 2, 2
    options.shapes = options.shapes or shapes(
        "256:2048:32" if options.quick else "576:16384:64,768:24576:32,2304:65536:64")
    options.batches = options.batches or ([1, 16, 256] if options.quick else [1, 16, 256, 1024])
    # It would halve the speed of sgemm.
    if os.environ.pop("OPENBLAS_CORETYPE", None):
        print("OPENBLAS_CORETYPE is set: left out here, since it slows sgemm", file=sys.stderr)

    if (load := os.getloadavg()[0]) > 0.5:
        print(f"The machine is busy, its load is {load:.1f}: times and ratios may be far off",
              file=sys.stderr)

    torch.set_num_threads(options.threads)
    rows = []
    with torch.inference_mode():
        for shape in options.shapes:
            rows += measure_shape(options, shape)
    version = subprocess.run([options.granule, "--version"], check=True, text=True,
                             stdout=subprocess.PIPE).stdout.strip()
    if options.figure:
        with open(options.figure, "w") as file:
            file.write(figure(rows, options.threads))
    if options.json:
        print(json.dumps({
            "granule": version, "torch": torch.__version__,
            "cpu": cpu_name(), "threads": options.threads, "data": options.data, "rows": rows}))
        return
    print(f"{cpu_name()}, {options.threads} threads; {options.data} activations\n"
          f"Granule {version}, PyTorch {torch.__version__}\n")
    print(f"{'d_model':>7} {'latents':>7} {'batch':>6} {'G':>6} {'k':>4} {'Granule ms':>11} "
          f"{'sgemm ms':>9} {'PyTorch ms':>11} {'× sgemm':>8} {'× PyTorch':>10} {'survivors':>9}")
    for row in rows:
        survivors = row["survivors_per_token"]
        print(f"{row['d_model']:7} {row['latents']:7} {row['batch']:6} {row['granularity']:6} "
              f"{row['k']:4} {row['ms']:11.3f} {row['sgemm_ms']:9.3f} {row['torch_ms']:11.3f} "
              f"{row['speedup_sgemm']:8.2f} {row['speedup_torch']:10.2f} "
              f"{'all' if survivors is None else format(survivors, '9.1f'):>9}")
    print("\nsgemm: OpenBLAS with a top-k, sgemv for a batch of 1. PyTorch: the faster of all tokens "
          "at once and 256 at a time.")


if __name__ == "__main__":
    main()
