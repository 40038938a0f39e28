#!/usr/bin/env python3
"""Granule's training step against PyTorch, sparsify and SAELens: milliseconds a step, in one run; or
the losses of the same steps.

`granule bench train` draws activations and first weights, which the peers train from, too: TopK, AuxK,
clipping of the gradient's norm, unit decoder rows with their gradient projected, Adam. Peers:

    pytorch      autograd; decode by embedding_bag; Adam fused
    pytorch-sparse  the same loss with its gradients written by hand: products with the codes as
                 sparse matrices, so that only encoding is dense
    sparsify     SparseCoder of EleutherAI's sparsify and its trainer's step
    saelens      TopKTrainingSAE in SAELens's SAETrainer
    saelens-matryoshka  MatryoshkaBatchTopKTrainingSAE with --widths

Granule takes --warm-up steps and then --steps, a peer --peer-warm-up and --peer-steps; the least
time counts, of every side, since other work on the machine only adds. With --dead latents, as many are
declared dead to every side.

--cpu-time counts the seconds of processor time that a step takes instead, PyTorch on one thread: for
machines that others use, too, where it is steadier than the time on the wall.

--curve takes --steps steps with Granule and with PyTorch from the same weights on the same batches and
compares the losses of every --every steps; it exits with 1 where one differs by more than --tolerance.

    pip install torch numpy safetensors sae-lens eai-sparsify
    python3 benchmarks/train.py
    python3 benchmarks/train.py --dead 2000 --peers pytorch
    python3 benchmarks/train.py --curve --latents 4096 --batch 1024 --steps 500
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

NAMES = ["pytorch", "pytorch-sparse", "sparsify", "saelens", "saelens-matryoshka"]
AUXILIARY = 1 / 32
CLIP = 1.0


def variance(x):
    return (x - x.mean(0)).pow(2).sum()


class PyTorch:
    """Granule's loss and step, by autograd."""

    def __init__(self, options, weights):
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        self.parameters = [weights[name].clone().requires_grad_() for name in names]
        self.adam = torch.optim.Adam(self.parameters, lr=options.learning_rate, fused=True)
        self.k, self.granularities = options.k, options.granularities or [options.latents]

    def step(self, x, dead):
        W_enc, b_enc, W_dec, b_dec = self.parameters
        self.adam.zero_grad(set_to_none=True)
        h = F.linear(x - b_dec, W_enc, b_enc)
        z, indices = torch.relu(h).topk(self.k, dim=1, sorted=False)
        total = variance(x)
        loss = 0
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
        return loss.item()


class PyTorchSparse(PyTorch):
    """The same for one granularity and no dead latents, gradients by hand."""

    @torch.no_grad()
    def step(self, x, dead):
        assert not len(dead) and len(self.granularities) == 1, "neither dead latents nor prefixes"
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
        # In blocks, so that the gathered rows stay in the cache.
        for start in range(0, tokens, 16):
            part = slice(start, start + 16)
            gradients[part] = torch.bmm(
                W_dec[indices[part]], returned[part].unsqueeze(2)).squeeze(2)
        gradients *= z > 0
        order = indices.flatten().argsort(stable=True)
        rows = torch.zeros(latents + 1, dtype=torch.int64)
        rows[1:] = torch.bincount(indices.flatten(), minlength=latents).cumsum(0)
        columns = order // self.k

        # torch warns once that its sparse matrices are beta.
        def by_latent(values):
            return torch.sparse_csr_tensor(rows, columns, values.flatten()[order], (latents, tokens))

        W_enc.grad, W_dec.grad = by_latent(gradients) @ centred, by_latent(z) @ returned
        b_enc.grad = torch.zeros(latents).index_add_(
            0, indices.flatten(), gradients.flatten())
        b_dec.grad = returned.sum(0) - b_enc.grad @ W_enc
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.adam.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        return loss.item()


class Sparsify:
    """SparseCoder with what sparsify's trainer does in a step."""

    def __init__(self, options, weights):
        from sparsify.config import SparseCoderConfig
        from sparsify.sparse_coder import SparseCoder
        config = SparseCoderConfig(num_latents=options.latents, k=options.k)
        self.coder = SparseCoder(weights["b_dec"].numel(), config)
        with torch.no_grad():
            self.coder.encoder.weight.copy_(weights["W_enc"])
            self.coder.encoder.bias.copy_(weights["b_enc"])
            self.coder.W_dec.copy_(weights["W_dec"])
            self.coder.b_dec.copy_(weights["b_dec"])
        self.adam = torch.optim.Adam(self.coder.parameters(), lr=options.learning_rate)
        self.latents = options.latents

    def step(self, x, dead):
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
        return out.fvu.item()


class SAELens:
    """SAETrainer's own step."""

    def __init__(self, options, weights):
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer
        self.sae = self.make(options, weights["b_dec"].numel())
        with torch.no_grad():
            self.sae.W_enc.copy_(weights["W_enc"].T)
            self.sae.W_dec.copy_(weights["W_dec"])
            self.sae.b_dec.copy_(weights["b_dec"])
        self.trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=1 << 30, train_batch_size_samples=options.batch,
                lr=options.learning_rate, lr_end=options.learning_rate, device="cpu"),
            self.sae, data_provider=iter([]))
        self.latents = options.latents

    def make(self, options, d_model):
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        return TopKTrainingSAE(TopKTrainingSAEConfig(
            d_in=d_model, d_sae=options.latents, k=options.k, device="cpu", dtype="float32"))

    def step(self, x, dead):
        if len(dead):
            self.trainer.n_forward_passes_since_fired[dead] = 1e9
        return self.trainer._train_step(sae=self.sae, sae_in=x).loss.item()


class SAELensMatryoshka(SAELens):
    def make(self, options, d_model):
        from sae_lens.saes.matryoshka_batchtopk_sae import (
            MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig)
        return MatryoshkaBatchTopKTrainingSAE(MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=d_model, d_sae=options.latents, k=options.k, device="cpu", dtype="float32",
            matryoshka_widths=options.widths))


PEERS = dict(zip(NAMES, [PyTorch, PyTorchSparse, Sparsify, SAELens, SAELensMatryoshka]))


def granule(options, *arguments):
    command = [options.granule, "bench", "train", "--latents", str(options.latents), "--k",
               str(options.k), "--batch", str(options.batch), "--learning-rate",
               str(options.learning_rate), "--json", *arguments]
    command += (["--activations", options.activations] if options.activations
                else ["--d-model", str(options.d_model)])
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def granule_cpu_ms(options, granularities):
    """Processor time of a step: what more steps take more."""
    def seconds(steps):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        granule(options, "--dead", str(options.dead), "--granularities", granularities, "--steps",
                str(steps), "--warm-up", "1")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * (seconds(options.steps + 1) - seconds(1)) / options.steps


def times(options, folder):
    dead = torch.arange(options.dead) * options.latents // max(options.dead, 1)
    widths = ",".join(map(str, options.widths))
    least = {}
    for round in range(options.rounds):
        rows = json.loads(granule(
            options, "--dead", str(options.dead), "--granularities", widths, "--steps",
            str(options.steps), "--warm-up", str(options.warm_up), "--save", folder))
        for row in rows:
            name = "granule" if row["granularities"] == 1 else "granule-nested"
            if not options.cpu_time and (name not in least or row["ms"] < least[name]["ms"]):
                least[name] = row
        if options.cpu_time:
            single = granule_cpu_ms(options, str(options.latents))
            # Of several granularities the command takes steps with one, too.
            nested = granule_cpu_ms(options, widths) - single
            for name, ms in (("granule", single), ("granule-nested", nested)):
                least[name] = {"ms": min(ms, least.get(name, {"ms": ms})["ms"])}
        weights = load_file(os.path.join(folder, "weights.safetensors"))
        activations = load_file(os.path.join(folder, "activations.safetensors"))["activations"]
        batches = activations.split(options.batch)
        for name in options.peers:
            peer = PEERS[name](options, weights)
            for number in range(options.peer_warm_up + options.peer_steps):
                clock = time.process_time if options.cpu_time else time.perf_counter
                start = clock()
                peer.step(batches[number % len(batches)], dead)
                ms = 1000 * (clock() - start)
                if number >= options.peer_warm_up and ms < least.get(name, {"ms": ms + 1})["ms"]:
                    least[name] = {"ms": ms}
            del peer
    if options.json:
        print(json.dumps({"threads": options.threads, "torch": torch.__version__,
                          "batch": options.batch, "dead": options.dead, "steps": least}))
        return
    print(f"{options.latents} latents, k {options.k}, {options.batch} tokens a step, {options.dead} "
          f"dead latents; {options.threads} threads, PyTorch {torch.__version__}\n")
    print(f"{'':22} {'ms a step':>10} {'× granule':>10}")
    for name, row in least.items():
        ours = least["granule-nested" if "matryoshka" in name else "granule"]["ms"]
        print(f"{name:22} {row['ms']:10.1f} {row['ms'] / ours:10.2f}")
    print(f"\ngranule-nested: {len(options.widths)} granularities, {widths}.")


def curve(options, folder):
    options.granularities = options.widths
    start = time.perf_counter()
    output = granule(options, "--dead", "0", "--granularities", ",".join(map(str, options.widths)), "--steps",
                     str(options.steps), "--curve", str(options.every), "--save", folder)
    points = [json.loads(line) for line in output.splitlines()]
    print(f"Granule took {time.perf_counter() - start:.0f} s", file=sys.stderr)
    weights = load_file(os.path.join(folder, "weights.safetensors"))
    activations = load_file(os.path.join(folder, "activations.safetensors"))["activations"]
    batches = activations.split(options.batch)
    peer = PyTorch(options, weights)
    start, worst = time.perf_counter(), 0
    logged = {point["step"]: point["loss"] for point in points}
    print(f"{'step':>6} {'Granule':>12} {'PyTorch':>12} {'difference':>11}")
    for number in range(options.steps):
        loss = peer.step(batches[number % len(batches)], torch.empty(0, dtype=torch.int64))
        if number in logged:
            difference = abs(logged[number] - loss) / loss
            worst = max(worst, difference)
            print(f"{number:6} {logged[number]:12.7f} {loss:12.7f} {difference:11.2e}", flush=True)
    print(f"PyTorch took {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(f"\nlargest difference {worst:.2e} of the loss")
    if worst > options.tolerance:
        sys.exit(1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--granule", default=os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", ".build", "release", "granule"))
    parser.add_argument("--d-model", type=int, default=576)
    parser.add_argument("--latents", type=int, default=16384)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--widths", type=lambda text: [int(n) for n in text.split(",")],
                        help="nested granularities (default N/16, N/4, N/2, N)")
    parser.add_argument("--activations", help="files or a folder instead of drawn activations")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--dead", type=int, default=0)
    parser.add_argument("--peers", type=lambda text: text.split(","), default=None,
                        help=f"of {', '.join(NAMES)} (default all)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of every side")
    parser.add_argument("--steps", type=int, help="of Granule in a turn (default 10; --curve 500)")
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--peer-steps", type=int, default=3, help="of a peer in a turn")
    parser.add_argument("--peer-warm-up", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, one thread")
    parser.add_argument("--curve", action="store_true", help="compare losses, not times")
    parser.add_argument("--every", type=int, default=25, help="steps between compared losses")
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.widths = options.widths or [
        options.latents // share for share in (16, 4, 2, 1) if options.latents >= share]
    options.granularities = None
    options.steps = options.steps or (500 if options.curve else 10)
    if options.peers is None:
        options.peers = [name for name in NAMES if not (options.dead and name == "pytorch-sparse")]
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"--peers: {name} is none of {', '.join(NAMES)}")
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"The machine is busy, its load is {load:.1f}: times and ratios may be far off",
              file=sys.stderr)
    if options.cpu_time:
        options.threads = 1
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="granule-bench-") as folder:
        (curve if options.curve else times)(options, folder)


if __name__ == "__main__":
    main()
