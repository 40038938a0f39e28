#!/usr/bin/env python3
"""Granule's training step against PyTorch, sparsify and SAELens: milliseconds a step in one run, or
the losses of the same steps.

Granule's train bench draws activations and first weights, and the peers train on them too: TopK,
AuxK, clipping of the gradient's norm, unit decoder rows with their gradient projected, Adam. Peers:

    pytorch      autograd; decode by embedding_bag; Adam fused
    pytorch-sparse  the same loss with its gradients written by hand: products with the codes as
                 sparse matrices, so that only encoding is dense
    sparsify     SparseCoder of EleutherAI's sparsify and its trainer's step; without a CUDA device
                 with its eager decoder
    saelens      TopKTrainingSAE in SAELens's SAETrainer
    saelens-matryoshka  MatryoshkaBatchTopKTrainingSAE with --widths

Granule takes --warm-up steps and then --steps, a peer --peer-warm-up and --peer-steps. The least
time of every side counts, because other work on the machine only adds to it. With --dead that many
latents are declared dead to every side.

--cpu-time counts the seconds of processor time that a step takes instead, with PyTorch on one
thread. On a machine that others use too it is steadier than wall time.

--curve takes --steps steps with Granule and with PyTorch from the same weights on the same batches
and compares the losses of every --every steps. It exits with 1 if one differs by more than
--tolerance.

    pip install torch numpy safetensors sae-lens eai-sparsify
    python3 benchmarks/train.py
    python3 benchmarks/train.py --dead 2000 --peers pytorch
    python3 benchmarks/train.py --curve --latents 4096 --batch 1024 --steps 500
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from command_line import add_threads_option, options_parser
from granule_program import bench_output
from machine import warn_if_busy
from sparsify_library import import_sparsify
from train_report import (
    Least,
    default_widths,
    evenly_spaced,
    keep_least,
    largest_difference,
    ms_a_step,
    relative_difference,
    table,
)

AUXILIARY = 1 / 32
CLIP = 1.0

Weights = dict[str, torch.Tensor]


class Peer(Protocol):
    """A training that takes steps on batches, [tokens, d_model], and returns each one's loss."""

    def step(self, x: torch.Tensor, dead: torch.Tensor) -> float: ...


def variance(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)).pow(2).sum()


class PyTorch:
    """Granule's loss and step, by autograd."""

    def __init__(
        self, options: argparse.Namespace, weights: Weights, widths: Sequence[int]
    ) -> None:
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        self.parameters = [weights[name].clone().requires_grad_() for name in names]
        self.adam = torch.optim.Adam(self.parameters, lr=options.learning_rate, fused=True)
        self.k, self.granularities = options.k, widths

    def step(self, x: torch.Tensor, dead: torch.Tensor) -> float:
        W_enc, b_enc, W_dec, b_dec = self.parameters
        self.adam.zero_grad(set_to_none=True)
        h = F.linear(x - b_dec, W_enc, b_enc)
        z, indices = torch.relu(h).topk(self.k, dim=1, sorted=False)
        total = variance(x)
        loss = x.new_zeros(())
        for granularity in self.granularities:
            kept = z if granularity == len(W_enc) else z * (indices < granularity)
            x_hat = F.embedding_bag(indices, W_dec, per_sample_weights=kept, mode="sum") + b_dec
            error = x - x_hat
            loss = loss + error.pow(2).sum() / total / len(self.granularities)
        if len(dead):
            residual = error.detach()
            k = max(1, min(x.shape[1] // 2, len(dead)))
            z, indices = torch.relu(h[:, dead]).topk(k, dim=1, sorted=False)
            estimate = F.embedding_bag(indices, W_dec[dead], per_sample_weights=z, mode="sum")
            loss = loss + AUXILIARY * (residual - estimate).pow(2).sum() / variance(residual)
        loss.backward()
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.adam.step()
            W_dec /= W_dec.norm(dim=1, keepdim=True)
        return float(loss.item())


class PyTorchSparse(PyTorch):
    """The same for one granularity and no dead latents, with gradients written by hand."""

    @torch.no_grad()
    def step(self, x: torch.Tensor, dead: torch.Tensor) -> float:
        if len(dead) or len(self.granularities) > 1:
            raise ValueError("this step knows neither dead latents nor prefixes")
        W_enc, b_enc, W_dec, b_dec = self.parameters
        tokens, latents = len(x), len(W_enc)
        centred = x - b_dec
        z, indices = F.linear(centred, W_enc, b_enc).topk(self.k, dim=1, sorted=False)
        z = z.relu_()
        x_hat = F.embedding_bag(indices, W_dec, per_sample_weights=z, mode="sum") + b_dec
        total = variance(x)
        returned = (x_hat - x) * (2 / total)
        loss = (x_hat - x).pow(2).sum() / total
        gradients = torch.empty_like(z)
        # The blocks are small, so that the gathered rows stay in the cache.
        for start in range(0, tokens, 16):
            part = slice(start, start + 16)
            gradients[part] = torch.bmm(W_dec[indices[part]], returned[part].unsqueeze(2)).squeeze(
                2
            )
        gradients *= z > 0
        order = indices.flatten().argsort(stable=True)
        rows = torch.zeros(latents + 1, dtype=torch.int64)
        rows[1:] = torch.bincount(indices.flatten(), minlength=latents).cumsum(0)
        columns = order // self.k

        # torch warns once that its sparse matrices are in beta.
        def by_latent(values: torch.Tensor) -> torch.Tensor:
            return torch.sparse_csr_tensor(
                rows, columns, values.flatten()[order], (latents, tokens)
            )

        W_enc.grad, W_dec.grad = by_latent(gradients) @ centred, by_latent(z) @ returned
        b_enc.grad = torch.zeros(latents).index_add_(0, indices.flatten(), gradients.flatten())
        b_dec.grad = returned.sum(0) - b_enc.grad @ W_enc
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.adam.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        return float(loss.item())


class Sparsify:
    """sparsify's SparseCoder with what its trainer does in a step."""

    def __init__(self, options: argparse.Namespace, weights: Weights) -> None:
        sparse_coder = import_sparsify()
        config = sparse_coder.SparseCoderConfig(num_latents=options.latents, k=options.k)
        self.coder = sparse_coder.SparseCoder(weights["b_dec"].numel(), config)
        with torch.no_grad():
            self.coder.encoder.weight.copy_(weights["W_enc"])
            self.coder.encoder.bias.copy_(weights["b_enc"])
            self.coder.W_dec.copy_(weights["W_dec"])
            self.coder.b_dec.copy_(weights["b_dec"])
        self.adam = torch.optim.Adam(self.coder.parameters(), lr=options.learning_rate)
        self.latents = options.latents

    def step(self, x: torch.Tensor, dead: torch.Tensor) -> float:
        self.coder.set_decoder_norm_to_unit_norm()
        mask = None
        if len(dead):
            mask = torch.zeros(self.latents, dtype=torch.bool)
            mask[dead] = True
        out = self.coder(x, dead_mask=mask)
        (out.fvu + AUXILIARY * out.auxk_loss).backward()
        torch.nn.utils.clip_grad_norm_(self.coder.parameters(), CLIP)
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.adam.step()
        self.adam.zero_grad()
        return float(out.fvu.item())


class SAELens:
    """SAETrainer's own step."""

    def __init__(self, options: argparse.Namespace, weights: Weights) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        self.sae = self.make(options, weights["b_dec"].numel())
        with torch.no_grad():
            self.sae.W_enc.copy_(weights["W_enc"].T)
            self.sae.W_dec.copy_(weights["W_dec"])
            self.sae.b_dec.copy_(weights["b_dec"])
        self.trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=1 << 30,
                train_batch_size_samples=options.batch,
                lr=options.learning_rate,
                lr_end=options.learning_rate,
                device="cpu",
            ),
            self.sae,
            data_provider=iter([]),
        )
        self.latents = options.latents

    def make(self, options: argparse.Namespace, d_model: int) -> torch.nn.Module:
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

        config = TopKTrainingSAEConfig(
            d_in=d_model, d_sae=options.latents, k=options.k, device="cpu", dtype="float32"
        )
        return TopKTrainingSAE(config)

    def step(self, x: torch.Tensor, dead: torch.Tensor) -> float:
        if len(dead):
            self.trainer.n_forward_passes_since_fired[dead] = 1e9
        return float(self.trainer._train_step(sae=self.sae, sae_in=x).loss.item())


class SAELensMatryoshka(SAELens):
    def make(self, options: argparse.Namespace, d_model: int) -> torch.nn.Module:
        from sae_lens.saes.matryoshka_batchtopk_sae import (
            MatryoshkaBatchTopKTrainingSAE,
            MatryoshkaBatchTopKTrainingSAEConfig,
        )

        config = MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=d_model,
            d_sae=options.latents,
            k=options.k,
            device="cpu",
            dtype="float32",
            matryoshka_widths=options.widths,
        )
        return MatryoshkaBatchTopKTrainingSAE(config)


PEERS: dict[str, Callable[[argparse.Namespace, Weights], Peer]] = {
    "pytorch": lambda options, weights: PyTorch(options, weights, [options.latents]),
    "pytorch-sparse": lambda options, weights: PyTorchSparse(options, weights, [options.latents]),
    "sparsify": Sparsify,
    "saelens": SAELens,
    "saelens-matryoshka": SAELensMatryoshka,
}


def granule(options: argparse.Namespace, *arguments: str) -> str:
    """What Granule's train bench prints."""
    source = (
        ["--activations", options.activations]
        if options.activations
        else ["--d-model", str(options.d_model)]
    )
    return bench_output(
        options.granule,
        "train",
        "--latents",
        str(options.latents),
        "--k",
        str(options.k),
        "--batch",
        str(options.batch),
        "--learning-rate",
        str(options.learning_rate),
        "--json",
        *arguments,
        *source,
    )


def granule_cpu_ms(options: argparse.Namespace, granularities: str) -> float:
    """Processor time of a step: the time that more steps add, over their number."""

    def seconds(steps: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        granule(
            options,
            "--dead",
            str(options.dead),
            "--granularities",
            granularities,
            "--steps",
            str(steps),
            "--warm-up",
            "1",
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    more = seconds(options.steps + 1)
    return ms_a_step(seconds(1), more, options.steps)


def saved(folder: str, batch: int) -> tuple[Weights, Sequence[torch.Tensor]]:
    """The first weights that Granule drew, and its activations in batches."""
    weights: Weights = load_file(Path(folder, "weights.safetensors"))
    activations = load_file(Path(folder, "activations.safetensors"))["activations"]
    return weights, activations.split(batch)


def granule_round(options: argparse.Namespace, folder: str, least: Least) -> None:
    widths = ",".join(map(str, options.widths))
    output = granule(
        options,
        "--dead",
        str(options.dead),
        "--granularities",
        widths,
        "--steps",
        str(options.steps),
        "--warm-up",
        str(options.warm_up),
        "--save",
        folder,
    )
    if not options.cpu_time:
        for row in json.loads(output):
            name = "granule" if row["granularities"] == 1 else "granule-nested"
            keep_least(least, name, row)
        return
    single = granule_cpu_ms(options, str(options.latents))
    # With several granularities the bench also takes steps with one.
    nested = granule_cpu_ms(options, widths) - single
    keep_least(least, "granule", {"ms": single})
    keep_least(least, "granule-nested", {"ms": nested})


def times(options: argparse.Namespace, folder: str) -> None:
    dead = torch.tensor(evenly_spaced(options.dead, options.latents), dtype=torch.int64)
    clock = time.process_time if options.cpu_time else time.perf_counter
    least: Least = {}
    for _ in range(options.rounds):
        granule_round(options, folder, least)
        weights, batches = saved(folder, options.batch)
        for name in options.peers:
            peer = PEERS[name](options, weights)
            for number in range(options.peer_warm_up + options.peer_steps):
                start = clock()
                peer.step(batches[number % len(batches)], dead)
                ms = 1000 * (clock() - start)
                if number >= options.peer_warm_up:
                    keep_least(least, name, {"ms": ms})
            del peer
    if options.json:
        report = {
            "threads": options.threads,
            "torch": torch.__version__,
            "batch": options.batch,
            "dead": options.dead,
            "steps": least,
        }
        print(json.dumps(report))
        return
    print(
        f"{options.latents} latents, k {options.k}, {options.batch} tokens a step, {options.dead} "
        f"dead latents; {options.threads} threads, PyTorch {torch.__version__}\n"
    )
    print(table(least))
    widths = ",".join(map(str, options.widths))
    print(f"\ngranule-nested: {len(options.widths)} granularities, {widths}.")


def curve(options: argparse.Namespace, folder: str) -> None:
    start = time.perf_counter()
    output = granule(
        options,
        "--dead",
        "0",
        "--granularities",
        ",".join(map(str, options.widths)),
        "--steps",
        str(options.steps),
        "--curve",
        str(options.every),
        "--save",
        folder,
    )
    points = [json.loads(line) for line in output.splitlines()]
    print(f"Granule took {time.perf_counter() - start:.0f} s", file=sys.stderr)
    weights, batches = saved(folder, options.batch)
    peer = PyTorch(options, weights, options.widths)
    none_dead = torch.empty(0, dtype=torch.int64)
    start = time.perf_counter()
    logged = {point["step"]: point["loss"] for point in points}
    pairs = []
    print(f"{'step':>6} {'Granule':>12} {'PyTorch':>12} {'difference':>11}")
    for number in range(options.steps):
        loss = peer.step(batches[number % len(batches)], none_dead)
        if number in logged:
            ours = logged[number]
            pairs.append((ours, loss))
            difference = relative_difference(ours, loss)
            print(f"{number:6} {ours:12.7f} {loss:12.7f} {difference:11.2e}", flush=True)
    print(f"PyTorch took {time.perf_counter() - start:.0f} s", file=sys.stderr)
    worst = largest_difference(pairs)
    print(f"\nlargest difference {worst:.2e} of the loss")
    if not worst <= options.tolerance:  # so that NaN fails
        sys.exit(1)


def parse_options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    add_sizes(parser)
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        help=f"peers to measure, of {', '.join(PEERS)} (default: all)",
    )
    parser.add_argument("--rounds", type=int, default=2, help="turns of every side")
    parser.add_argument(
        "--steps", type=int, help="Granule's steps in a turn (default 10; with --curve 500)"
    )
    parser.add_argument("--warm-up", type=int, default=3, help="Granule's steps before them")
    parser.add_argument("--peer-steps", type=int, default=3, help="a peer's steps in a turn")
    parser.add_argument("--peer-warm-up", type=int, default=1, help="a peer's steps before them")
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure processor time, on one thread"
    )
    parser.add_argument("--curve", action="store_true", help="compare losses instead of times")
    parser.add_argument("--every", type=int, default=25, help="steps between compared losses")
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="largest relative difference of a loss"
    )
    add_threads_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    options.widths = options.widths or default_widths(options.latents)
    options.steps = options.steps or (500 if options.curve else 10)
    if options.peers is None:
        options.peers = [name for name in PEERS if not (options.dead and name == "pytorch-sparse")]
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"--peers: {name} is not one of {', '.join(PEERS)}")
    if options.cpu_time:
        options.threads = 1
    return options


def add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--d-model", type=int, default=576, help="width of drawn activations")
    parser.add_argument("--latents", type=int, default=16384, help="latents of the dictionary, N")
    parser.add_argument("--k", type=int, default=64, help="active latents of a token")
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a step")
    parser.add_argument(
        "--widths",
        type=lambda text: [int(n) for n in text.split(",")],
        help="nested granularities (default N/16, N/4, N/2, N)",
    )
    parser.add_argument("--activations", help="files or a folder to use instead of drawn ones")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="Adam's learning rate")
    parser.add_argument("--dead", type=int, default=0, help="number of latents declared dead")


def main() -> None:
    options = parse_options()
    warn_if_busy()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="granule-bench-") as folder:
        (curve if options.curve else times)(options, folder)


if __name__ == "__main__":
    main()
