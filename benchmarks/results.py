#!/usr/bin/env python3
"""The comparison of "Progressive Coding for Sparse Autoencoders", on a small language model: harvests,
trains, orders and evaluates what docs/results.md shows, and writes it.

Matryoshka dictionaries (fixed and sampled granularities, reordered), TopK dictionaries (reordered by
mean squared activation and by frequency, unordered, and trained from scratch at each smaller size),
BatchTopK and JumpReLU, three seeds, a grid of sizes and k, and the paper's depth.

What is done already is skipped, and a run that was cut short goes on where it was: start the same
command again after Ctrl-C or a crash. --list shows what is done; --parts takes only some of it, and
the page is written of what there is. The whole takes some seven hours on two cores.

    scripts/fetch-model; scripts/fetch-text
    python3 benchmarks/results.py --model MODEL.gguf --text FOLDER --held-out-text FILE FILE

Learning rates were not tuned on the held-out text: --learning-rate is that of 16,384 latents, other
sizes take it times √(16384 / N).
"""
import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from line_plot import line_plot

ROOT = Path(__file__).resolve().parent.parent
N, K = 16384, 64
PREFIXES = [1024, 2048, 4096, 8192]


def prefixes(latents):
    return [latents // 16, latents // 8, latents // 4, latents // 2, latents]


def run(name, part, latents=N, k=K, matryoshka=False, layer=10, seed=0, extra=()):
    granularities = prefixes(latents) if matryoshka else [latents]
    options = ["--latents", latents, "--granularities", ",".join(map(str, granularities)),
               "--seed", seed, *extra]
    if "jumprelu" not in extra:
        options += ["--k", k]
    return {"name": name, "part": part, "latents": latents, "k": k, "layer": layer,
            "matryoshka": matryoshka, "options": [str(option) for option in options]}


RUNS = [
    run("matryoshka", "main", matryoshka=True),
    run("topk", "main"),
    run("matryoshka-sampled", "main", matryoshka=True, extra=["--sample-granularities", 5]),
    *[run(f"topk-{g}-k{K * g // N}", "scratch", g, K * g // N) for g in PREFIXES],
    run("batchtopk", "baselines", extra=["--objective", "batchtopk"]),
    run("jumprelu", "baselines", extra=["--objective", "jumprelu", "--target-l0", K]),
    *[run(f"topk-{n}-k{k}", "grid", n, k) for n in (4096, 8192, N) for k in (16, 32, 64, 128)
      if (n, k) not in [(N, K), (4096, 16), (8192, 32)]],
    *[run(f"matryoshka-k{k}", "grid", k=k, matryoshka=True) for k in (16, 32, 128)],
    *[run(f"matryoshka-8192-seed{s}", "seeds", 8192, matryoshka=True, seed=s) for s in (0, 1, 2)],
    *[run(f"topk-8192-seed{s}", "seeds", 8192, seed=s) for s in (1, 2)],
    run("matryoshka-layer2", "depth", matryoshka=True, layer=2),
    run("topk-layer2", "depth", layer=2),
]
# Dictionaries made of others by a new order: name, run, what latents are sorted by.
ORDERED = [
    ("topk-by-mean-squared-activation", "topk", "mean-squared-activation"),
    ("topk-by-frequency", "topk", "frequency"),
    ("matryoshka-by-mean-squared-activation", "matryoshka", "mean-squared-activation"),
    ("matryoshka-sampled-by-mean-squared-activation", "matryoshka-sampled",
     "mean-squared-activation"),
    ("topk-layer2-by-mean-squared-activation", "topk-layer2", "mean-squared-activation"),
    *[(f"topk-8192-seed{s}-by-mean-squared-activation",
       f"topk-8192-seed{s}" if s else "topk-8192-k64", "mean-squared-activation")
      for s in (0, 1, 2)],
]
# Where recaptured loss is measured, too.
WITH_LOSS = ["matryoshka", "matryoshka-sampled", "topk-by-mean-squared-activation",
             "topk-by-frequency", "topk", "matryoshka-by-mean-squared-activation", "batchtopk",
             "jumprelu", *[f"topk-{g}-k{K * g // N}" for g in PREFIXES]]


class Work:
    """Runs granule's commands, each once."""

    def __init__(self, options):
        self.options = options
        self.out = options.out.resolve()
        self.granule = options.granule or str(ROOT / ".build/release/granule")
        self.parts = options.parts
        self.runs = [r for r in RUNS if r["part"] in self.parts]

    def call(self, *arguments, output=None):
        command = [self.granule, *map(str, arguments)]
        print("$ granule " + " ".join(command[1:])[:300], flush=True)
        if output is None:
            subprocess.run(command, check=True)
            return
        partial = output.with_suffix(".partial")
        with open(partial, "w") as file:
            subprocess.run(command, check=True, stdout=file)
        partial.rename(output)

    def folder(self, name):
        """Of a trained or ordered dictionary."""
        trained = self.out / "runs" / name / "dictionary"
        return trained if trained.exists() else self.out / "ordered" / name

    def texts(self):
        """Training files in an order that mixes kinds and does not depend on the folder's path."""
        held_out = {path.name for path in self.options.held_out_text}
        files = [p for p in sorted(self.options.text.iterdir())
                 if p.suffix == ".txt" and p.name not in held_out]
        return sorted(files, key=lambda p: hashlib.md5(p.name.encode()).hexdigest())

    def harvest(self):
        model = ["--model", self.options.model, "--layer", "2,10"]
        if self.options.activations is None:
            self.call("harvest", *model, "--text", *self.texts(), "--tokens",
                      self.options.unique_tokens, "--out", self.out / "activations")
        for file in self.options.held_out_text:
            share = self.options.held_out_tokens // len(self.options.held_out_text)
            self.call("harvest", *model, "--text", file, "--tokens", share, "--out",
                      self.out / "held-out" / file.stem)

    def activations(self, layer):
        folder = self.options.activations or self.out / "activations"
        return folder / f"layer-{layer}"

    def held_out(self, layer):
        return [self.out / "held-out" / file.stem / f"layer-{layer}"
                for file in self.options.held_out_text]

    def train(self):
        for r in self.runs:
            folder = self.out / "runs" / r["name"]
            if (folder / "dictionary").exists():
                continue
            if (folder / "config.json").exists():
                self.call("train", "--resume", "--out", folder)
            else:
                rate = self.options.learning_rate * math.sqrt(N / r["latents"])
                self.call(
                    "train", "--activations", self.activations(r["layer"]), "--tokens",
                    self.options.tokens, "--held-out-sequences", 200, "--batch", 4096,
                    "--learning-rate", f"{rate:.6g}", *r["options"], "--out", folder)

    def order(self):
        for name, source, by in ORDERED:
            run_folder = self.out / "runs" / source
            folder = self.out / "ordered" / name
            if folder.exists() or not (run_folder / "dictionary").exists():
                continue
            layer = next(r["layer"] for r in RUNS if r["name"] == source)
            shards = sorted(self.activations(layer).glob("*.safetensors"))
            latents = next(r["latents"] for r in RUNS if r["name"] == source)
            folder.parent.mkdir(exist_ok=True)
            self.call("order", run_folder / "dictionary", "--activations",
                      *shards[::max(1, len(shards) // 4)][:4], "--by", by, "--granularities",
                      ",".join(map(str, prefixes(latents))), "--out", folder)

    def evaluate(self):
        evaluations, losses = self.out / "evaluations", self.out / "losses"
        evaluations.mkdir(parents=True, exist_ok=True)
        losses.mkdir(exist_ok=True)
        for name in [r["name"] for r in RUNS] + [name for name, *_ in ORDERED]:
            folder, output = self.folder(name), evaluations / f"{name}.json"
            if not folder.exists():
                continue
            latents, layer = about(name)
            nested = name in [o[0] for o in ORDERED] or "matryoshka" in name or name == "topk"
            at = prefixes(latents) if nested else [latents]
            if name.startswith("matryoshka") and latents == N or name.startswith("topk-by"):
                at = sorted(at + [1536, 3072, 6144, 12288])
            if not output.exists():
                self.call("evaluate", folder, "--activations", *self.held_out(layer),
                          "--granularities", ",".join(map(str, at)), "--json", output=output)
            output = losses / f"{name}.json"
            if name in WITH_LOSS and not output.exists():
                at = [g for g in at if g in prefixes(latents)]
                self.call("evaluate", folder, "--model", self.options.model, "--layer", layer,
                          "--text", *self.loss_texts(), "--tokens", self.options.loss_tokens,
                          "--granularities", ",".join(map(str, at)), "--without-decoder",
                          "--rsa-samples", 0, "--json", output=output)
        grid = [self.out / "runs" / r["name"] for r in RUNS
                if (r["part"] == "grid" or r["name"] in ("topk", "matryoshka", "topk-4096-k16",
                                                         "topk-8192-k32"))
                and (self.out / "runs" / r["name"] / "dictionary").exists()]
        output = self.out / "grid.json"
        if len(grid) > 2 and (not output.exists() or newer(grid, output)):
            self.call("evaluate", *[g / "dictionary" for g in grid], "--activations",
                      *self.held_out(10), "--without-decoder", "--rsa-samples", 0, "--json",
                      output=output)

    def loss_texts(self):
        """As much of each held-out file, so that `--tokens` of all hold equal parts."""
        folder = self.out / "loss-text"
        folder.mkdir(exist_ok=True)
        share = self.options.loss_tokens // len(self.options.held_out_text)
        cut = []
        for file in self.options.held_out_text:
            path = folder / file.name
            if not path.exists():
                # English takes some four bytes a token.
                text = file.read_bytes()[:share * 4].decode("utf-8", "ignore")
                path.write_text(text[:text.rfind("\n") + 1], encoding="utf-8")
            cut.append(path)
        return cut

    def list(self):
        for r in RUNS:
            folder = self.out / "runs" / r["name"]
            state = ("trained" if (folder / "dictionary").exists()
                     else "begun" if folder.exists() else "")
            evaluated = "evaluated" if (self.out / f"evaluations/{r['name']}.json").exists() else ""
            print(f"{r['part']:10} {r['name']:24} {state:8} {evaluated}")


def about(name):
    source = next((o[1] for o in ORDERED if o[0] == name), name)
    r = next(r for r in RUNS if r["name"] == source)
    return r["latents"], r["layer"]


def newer(folders, file):
    return any((f / "dictionary").stat().st_mtime > file.stat().st_mtime for f in folders)


class Page:
    """docs/results.md and its figures, of what was measured."""

    def __init__(self, work, folder):
        self.work, self.folder = work, folder
        self.lines = []

    def load(self, kind, name):
        path = self.work.out / kind / f"{name}.json"
        if not path.exists():
            return None
        report = json.loads(path.read_text())
        return report["dictionaries"][0] if "dictionaries" in report else report

    def rows(self, name, sparsity="fixed-ratio", kind="evaluations"):
        """Figures by granularity; where both sparsities have the same k, the one row there is."""
        report = self.load(kind, name)
        if report is None:
            return {}
        rows = report["rows"] if kind == "evaluations" else report["recaptured"]["rows"]
        result = {}
        for row in rows:
            if row["granularity"] not in result or row["sparsity"] == sparsity:
                result[row["granularity"]] = row
        return result

    def say(self, *paragraphs):
        self.lines += [line for p in paragraphs for line in (p, "")]

    def table(self, head, rows):
        rows = [[str(cell) for cell in row] for row in rows]
        self.lines.append("| " + " | ".join(head) + " |")
        self.lines.append("| --- |" + " ---: |" * (len(head) - 1))
        self.lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]

    def figure(self, name, *arguments, **keywords):
        (self.folder / f"results-{name}.svg").write_text(line_plot(*arguments, **keywords))
        self.say(f"![{arguments[0]}](results-{name}.svg)")

    def by_granularity(self, names, sparsity, key="fvu", kind="evaluations", digits=4):
        at = prefixes(N)
        rows = []
        for name, label in names:
            found = self.rows(name, sparsity, kind)
            if found:
                rows.append([label] + [f"{found[g][key]:.{digits}f}" if g in found else "–"
                                       for g in at])
        self.table(["dictionary"] + [f"G = {g:,}" for g in at], rows)

    def verdict(self, claim, pairs, factor=1.0):
        """pairs: {label: (left, right)}; the claim is that left ≤ right · factor."""
        pairs = {label: pair for label, pair in pairs.items() if None not in pair}
        if not pairs:
            self.say(f"- {claim}: **not measured yet**.")
            return
        held = [label for label, (a, b) in pairs.items() if a <= b * factor]
        word = ("holds" if len(held) == len(pairs) else "does not hold" if not held
                else f"holds at {len(held)} of {len(pairs)}")
        figures = "; ".join(f"{label}: {a:.4f} against {b:.4f}" for label, (a, b) in pairs.items())
        self.lines.append(f"- {claim}: **{word}**. {figures}.")

    def write(self):
        options = self.work.options
        counts = self.facts()
        self.say(
            "# Progressive coding, reproduced",
            "Written by `python3 benchmarks/results.py`, which trains and measures everything here. "
            "[evaluation.md](evaluation.md) defines the metrics; the claims are those of "
            "[Progressive Coding for Sparse Autoencoders](https://arxiv.org/abs/2505.00190).",
            f"{counts['model']}, residual stream before block 10, N = {N:,}, k = {K} at full size. "
            f"Each dictionary was trained on {counts['tokens']:,} tokens, that is "
            f"{counts['passes']:.1f} passes over {counts['unique']:,} tokens of {counts['text']} "
            f"files; FVU is measured on {counts['evaluated']:,} tokens of "
            + " and ".join(file.stem for file in options.held_out_text)
            + f", which no dictionary saw, recaptured loss on {counts['loss']:,} replaced tokens of "
            f"the same. Learning rate {options.learning_rate:g} · √({N:,} / N), "
            f"batches of 4,096, one seed where none is named. Training took "
            f"{counts['hours']:.1f} hours in all, of {counts['trained']} of {len(RUNS)} "
            "dictionaries.")
        if counts["trained"] < len(RUNS):
            missing = [r["name"] for r in RUNS if not self.trained(r["name"])]
            self.say("Not trained yet: " + ", ".join(missing) + ".")
        main = [("matryoshka", "Matryoshka"),
                ("matryoshka-sampled", "Matryoshka, sampled granularities"),
                ("matryoshka-by-mean-squared-activation", "Matryoshka, reordered by E[z²]"),
                ("matryoshka-sampled-by-mean-squared-activation",
                 "Matryoshka, sampled, reordered by E[z²]"),
                ("topk-by-mean-squared-activation", "TopK, reordered by E[z²]"),
                ("topk-by-frequency", "TopK, reordered by frequency"),
                ("topk", "TopK, unordered")]
        self.say("## FVU at the fixed ratio k · G / N",
                 "What the paper compares. Trained from scratch: a TopK dictionary of G latents with "
                 "the same k.")
        scratch = self.scratch()
        self.by_granularity(main, "fixed-ratio")
        if scratch:
            self.lines.pop()
            cells = [f"{scratch[g]['fvu']:.4f}" if g in scratch else "–" for g in prefixes(N)]
            self.lines += ["| TopK, trained from scratch | " + " | ".join(cells) + " |", ""]
        series = {label: [(g, row["fvu"]) for g, row in sorted(self.rows(name).items())]
                  for name, label in [main[0], main[1], main[4], main[6]] if self.rows(name)}
        if scratch:
            series["TopK from scratch"] = [(g, row["fvu"]) for g, row in sorted(scratch.items())]
        if series:
            self.figure("fixed-ratio", "FVU by granularity, k in proportion",
                        "lower is better; held-out text", "granularity G", "FVU", series)
        self.say("## FVU as trained",
                 "With the k that each prefix holds in full-width codes, which is what a server "
                 "uses: more active latents at small G. L0 stands below.")
        ordered = [m for m in main if m[0] != "topk"]
        self.by_granularity(ordered, "as-trained")
        self.by_granularity(ordered, "as-trained", key="l0", digits=1)
        self.losses(main)
        self.similarity(main)
        self.baselines()
        self.seeds()
        self.grid()
        self.power_laws()
        self.depth()
        self.claims()
        (self.folder / "results.md").write_text("\n".join(self.lines).rstrip() + "\n")
        print(f"wrote {self.folder}/results.md")

    def trained(self, name):
        return (self.work.out / "runs" / name / "dictionary").exists()

    def facts(self):
        """Scales and times, from the runs' own files."""
        facts = {"tokens": 0, "unique": 1, "hours": 0.0, "trained": 0, "evaluated": 0, "loss": 0}
        for r in RUNS:
            folder = self.work.out / "runs" / r["name"]
            if not self.trained(r["name"]):
                continue
            facts["trained"] += 1
            configuration = json.loads((folder / "config.json").read_text())
            facts["tokens"] = configuration["tokens"]
            for line in (folder / "metrics.jsonl").read_text().splitlines():
                rate = json.loads(line).get("tokens_per_second")  # not in lines of validation
                facts["hours"] += configuration["batch_tokens"] / rate / 3600 if rate else 0
        report = self.load("evaluations", "matryoshka") or self.load("evaluations", "topk")
        facts["evaluated"] = report["tokens"] if report else 0
        loss = self.load("losses", "matryoshka")
        facts["loss"] = loss["recaptured"]["replaced_tokens"] if loss else 0
        manifest = json.loads((self.work.activations(10) / "../manifest.json").read_text())
        facts["unique"] = manifest["tokens"]
        facts["model"], facts["text"] = manifest["model"]["name"], len(manifest["text"])
        facts["passes"] = facts["tokens"] / facts["unique"]
        return facts

    def scratch(self):
        found = {}
        for g in PREFIXES:
            rows = self.rows(f"topk-{g}-k{K * g // N}")
            if g in rows:
                found[g] = rows[g]
        top = self.rows("topk").get(N)
        if found and top:
            found[N] = top
        return found

    def losses(self, main):
        names = [m for m in main if self.load("losses", m[0])]
        if not names:
            return
        clean = self.load("losses", names[0][0])["recaptured"]
        self.say("## Recaptured loss",
                 f"CE(clean) / CE(spliced) in the whole model; the clean cross-entropy is "
                 f"{clean['cross_entropy_clean']:.4f} nats, with the mean in place of each "
                 f"activation {clean['cross_entropy_mean']:.4f}. At the fixed ratio, then as trained:")
        self.by_granularity(names, "fixed-ratio", "cross_entropy_ratio", "losses")
        self.by_granularity([m for m in names if m[0] != "topk"], "as-trained",
                            "cross_entropy_ratio", "losses")

    def similarity(self, main):
        self.say("## RSA at the fixed ratio")
        self.by_granularity(main, "fixed-ratio", "rsa")

    def baselines(self):
        rows = []
        for name in ("topk", "matryoshka", "batchtopk", "jumprelu"):
            row = self.rows(name).get(N)
            loss = self.rows(name, kind="losses").get(N)
            if row:
                rows.append([name, f"{row['l0']:.1f}", f"{row['fvu']:.4f}", row["dead_latents"],
                             f"{loss['cross_entropy_ratio']:.4f}" if loss else "–"])
        self.say("## At full size")
        self.table(["dictionary", "L0", "FVU", "never active", "CE ratio"], rows)

    def seeds(self):
        names = {
            "Matryoshka": [f"matryoshka-8192-seed{s}" for s in (0, 1, 2)],
            "TopK, reordered": [f"topk-8192-seed{s}-by-mean-squared-activation" for s in (0, 1, 2)]}
        rows = []
        for label, group in names.items():
            found = [self.rows(name) for name in group if self.rows(name)]
            if len(found) < 2:
                continue
            cells = []
            for g in prefixes(8192):
                values = [f[g]["fvu"] for f in found]
                mean = sum(values) / len(values)
                cells.append(f"{mean:.4f} ± {(max(values) - min(values)) / 2:.4f}")
            rows.append([f"{label}, {len(found)} seeds"] + cells)
        if rows:
            self.say("## Seeds", "N = 8,192, k = 64, FVU at the fixed ratio: mean and half the range.")
            self.table(["dictionary"] + [f"G = {g:,}" for g in prefixes(8192)], rows)

    def grid(self):
        path = self.work.out / "grid.json"
        if not path.exists():
            return
        report = json.loads(path.read_text())
        series = {}
        for n in (4096, 8192, N):
            points = []
            for k in (16, 32, 64, 128):
                name = "topk" if (n, k) == (N, K) else f"topk-{n}-k{k}"
                row = self.rows(name).get(n)
                if row:
                    points.append((row["l0"], row["fvu"]))
            if points:
                series[f"TopK, N = {n:,}"] = points
        points = []
        for k in (16, 32, 64, 128):
            row = self.rows("matryoshka" if k == K else f"matryoshka-k{k}").get(N)
            if row:
                points.append((row["l0"], row["fvu"]))
        if points:
            series[f"Matryoshka, N = {N:,}"] = points
        self.say("## Sparsity and fidelity", "At full size, over k.")
        self.figure("frontier", "Sparsity–fidelity frontier", "lower is better; held-out text",
                    "L0", "FVU", series)
        for law in report.get("scaling_laws", []):
            terms = ", ".join(
                f"{t['term']} {t['coefficient']:.3f} ± {t['standard_error'] or 0:.3f}"
                for t in law["terms"] if t["coefficient"] is not None)
            self.say(f"Scaling law, {law['sparsity']}{', with a floor' if law['has_floor'] else ''}, "
                     f"{law['points']} points, R² {law['r_squared']:.4f}: {terms}.")

    def power_laws(self):
        rows = []
        for name in ("topk", "matryoshka", "matryoshka-sampled"):
            report = self.load("evaluations", name)
            for law in (report or {}).get("power_laws", []):
                rows.append([f"{name}, {law['of'].replace('_', ' ')}", f"{law['exponent']:.2f}",
                             f"{law['r_squared']:.2f}"])
        if rows:
            self.say("## Power laws", "The paper: eigenvalues −0.54 … −0.72, E[z²] −1.03 … −1.27, "
                     "frequency −1.00 … −1.20, over ranks that it does not state; here 1 % to 50 %.")
            self.table(["values", "exponent", "R²"], rows)

    def depth(self):
        names = [("matryoshka-layer2", "Matryoshka"),
                 ("topk-layer2-by-mean-squared-activation", "TopK, reordered by E[z²]")]
        if any(self.rows(name) for name, _ in names):
            self.say("## Before block 2, the paper's depth", "FVU at the fixed ratio.")
            self.by_granularity(names, "fixed-ratio")

    def claims(self):
        self.say("## The paper's claims", "At the fixed ratio, FVU:")

        def at(name, g, sparsity="fixed-ratio"):
            row = self.rows(name, sparsity).get(g)
            return row["fvu"] if row else None

        def compare(a, b, granularities, sparsity="fixed-ratio"):
            return {f"G {g:,}": (at(a, g, sparsity), at(b, g, sparsity)) for g in granularities}

        reordered = "topk-by-mean-squared-activation"
        self.verdict("Matryoshka beats reordered TopK at every G below N",
                     compare("matryoshka", reordered, PREFIXES))
        self.verdict("… as trained, too",
                     compare("matryoshka", reordered, PREFIXES, "as-trained"))
        self.verdict("At full size Matryoshka is within 5 % of TopK",
                     compare("matryoshka", "topk", [N]), factor=1.05)
        self.verdict("Reordered TopK beats unordered", compare(reordered, "topk", PREFIXES))
        self.verdict("E[z²] is the better order than frequency",
                     compare(reordered, "topk-by-frequency", PREFIXES))
        self.verdict("Reordering a Matryoshka dictionary helps",
                     compare("matryoshka-by-mean-squared-activation", "matryoshka", PREFIXES))
        scratch = self.scratch()
        self.verdict(
            "A Matryoshka prefix with G/N ≥ 1/4 is within 10 % of a dictionary trained from scratch",
            {f"G {g:,}": (at("matryoshka", g), scratch[g]["fvu"]) for g in (4096, 8192)
             if g in scratch}, factor=1.1)
        self.verdict("Sampled granularities improve the trained ones",
                     compare("matryoshka-sampled", "matryoshka", PREFIXES))
        self.verdict("Sampled granularities improve those between the trained ones",
                     compare("matryoshka-sampled", "matryoshka", [1536, 3072, 6144, 12288]))
        pairs = [(a["fvu"], b["cross_entropy_ratio"]) for name in WITH_LOSS
                 for sparsity in ("fixed-ratio", "as-trained")
                 for g, b in self.rows(name, sparsity, "losses").items()
                 for a in [self.rows(name, sparsity).get(g)] if a]
        if len(pairs) > 2:
            self.lines.append(f"- FVU and recaptured loss correlate: Pearson's r "
                              f"{pearson(pairs):.3f} over {len(pairs)} dictionaries and "
                              "granularities.")


def pearson(pairs):
    n = len(pairs)
    mx, my = sum(x for x, _ in pairs) / n, sum(y for _, y in pairs) / n
    sxy = sum((x - mx) * (y - my) for x, y in pairs)
    return sxy / math.sqrt(sum((x - mx) ** 2 for x, _ in pairs)
                           * sum((y - my) ** 2 for _, y in pairs))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the language model, GGUF")
    parser.add_argument("--text", type=Path, required=True, help="a folder of .txt files")
    parser.add_argument("--held-out-text", type=Path, nargs="+", required=True,
                        help="files to evaluate on, never trained on")
    parser.add_argument("--activations", type=Path,
                        help="a harvest of blocks 2 and 10 that is there already")
    parser.add_argument("--out", type=Path, default=Path("results-out"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs", help="where results.md goes")
    parser.add_argument("--granule", help="the binary; default: .build/release/granule")
    parser.add_argument("--unique-tokens", type=int, default=8_200_000)
    parser.add_argument("--tokens", type=int, default=16_400_000, help="to train each one on")
    parser.add_argument("--held-out-tokens", type=int, default=100_000)
    parser.add_argument("--loss-tokens", type=int, default=20_000)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    every = list(dict.fromkeys(r["part"] for r in RUNS))
    parser.add_argument("--parts", nargs="+", choices=every, default=every)
    parser.add_argument("--list", action="store_true", help="show what is done, and end")
    options = parser.parse_args()
    work = Work(options)
    if options.list:
        work.list()
        return
    start = time.monotonic()
    work.out.mkdir(parents=True, exist_ok=True)
    try:
        for step in (work.harvest, work.train, work.order, work.evaluate):
            step()
    except subprocess.CalledProcessError as error:
        sys.exit(f"granule {error.cmd[1]} ended with {error.returncode}: start this again to go on")
    except KeyboardInterrupt:
        sys.exit(130)
    Page(work, options.page).write()
    print(f"{(time.monotonic() - start) / 3600:.2f} hours")


if __name__ == "__main__":
    main()
