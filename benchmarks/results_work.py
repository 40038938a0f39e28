"""Runs granule's commands for benchmarks/results.py: each once, and none on out-of-date results."""

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from held_out import Manifest, checked_harvest, training_files
from results_plan import Ordered, Plan, Run

# Options of `granule train` that a run asks for, by their names in its config.json.
FLAGS = {
    "activations": "--activations",
    "tokens": "--tokens",
    "learning_rate": "--learning-rate",
    "batch_tokens": "--batch",
    "held_out_sequences": "--held-out-sequences",
    "latents": "--latents",
    "granularities": "--granularities",
    "k": "--k",
    "seed": "--seed",
    "objective": "--objective",
    "granularity_weights": "--granularity-weights",
    "sampled_granularities": "--sample-granularities",
    "target_l0": "--target-l0",
}
CONFIG_DEFAULTS = {"sampled_granularities": 0}


class Stale(Exception):  # noqa: N818 -- names the state of a result, not an error of the program
    """An existing result does not match the options."""


class Ledger:
    """OUT/made.json: the arguments that made each file or folder, and the seconds of wall time that
    it took, summed over interruptions."""

    def __init__(self, out: Path) -> None:
        self.path = out / "made.json"
        self.entries: dict[str, dict[str, Any]] = (
            json.loads(self.path.read_text()) if self.path.exists() else {}
        )

    def arguments(self, key: str) -> list[str] | None:
        return self.entries.get(key, {}).get("arguments")

    def seconds(self, prefix: str) -> float:
        """Sum over all entries whose key begins with the prefix."""
        return sum(self.seconds_of(key) for key in self.entries if key.startswith(prefix))

    def seconds_of(self, key: str) -> float:
        return float(self.entries.get(key, {}).get("seconds", 0))

    def write(self) -> None:
        partial = self.path.with_name("made.json.partial")
        partial.write_text(json.dumps(self.entries, indent=1))
        partial.rename(self.path)

    def run(
        self,
        key: str,
        arguments: list[str],
        command: list[str],
        stdout: TextIO | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Runs a command and adds its time, even if it is interrupted. If it fails, and its
        arguments differ from those of the entry that is there, the entry stays as it was.

        Raises subprocess.CalledProcessError if it fails."""
        replaced = None
        if self.arguments(key) != arguments and "--resume" not in arguments:
            replaced = self.entries.pop(key, None)
        entry = self.entries.setdefault(key, {"arguments": arguments, "seconds": 0.0})
        entry.update(facts or {})
        before, start = entry["seconds"], time.monotonic()
        with subprocess.Popen(command, stdout=stdout) as process:
            try:
                while True:
                    try:
                        code = process.wait(timeout=20)
                        break
                    except subprocess.TimeoutExpired:
                        pass  # so that a crash of this process loses at most 20 seconds
                    finally:
                        entry["seconds"] = before + time.monotonic() - start
                        self.write()
            except KeyboardInterrupt:
                # The command may have the signal already. It leaves a checkpoint.
                process.send_signal(signal.SIGINT)
                process.wait()
                entry["seconds"] = before + time.monotonic() - start
                self.write()
                raise
        if code:
            if replaced:
                self.entries[key] = replaced
                self.write()
            raise subprocess.CalledProcessError(code, command)


class Work:
    def __init__(self, options: argparse.Namespace, plan: Plan, held_out: list[Path]) -> None:
        self.options, self.plan, self.held_out_files = options, plan, held_out
        self.out: Path = options.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.model: Path = options.model.resolve()
        self.granule = str(options.granule.resolve())
        self.ledger = Ledger(self.out)
        self.harvest_folder: Path = (options.activations or self.out / "activations").resolve()

    def granule_run(
        self, key: str, *values: object, output: Path | None = None, **facts: object
    ) -> None:
        arguments = [str(value) for value in values]
        print("$ granule " + " ".join(arguments)[:300], flush=True)
        if output is None:
            self.ledger.run(key, arguments, [self.granule, *arguments], facts=facts)
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(output.name + ".partial")
        output.unlink(missing_ok=True)  # the ledger describes the file that is made now
        with open(partial, "w") as file:
            self.ledger.run(key, arguments, [self.granule, *arguments], stdout=file)
        partial.rename(output)

    # MARK: Where things are

    def run_folder(self, name: str) -> Path:
        return self.out / "runs" / name

    def is_trained(self, name: str) -> bool:
        return (self.run_folder(name) / "dictionary").is_dir()

    def dictionary(self, name: str) -> Path:
        trained = self.run_folder(name) / "dictionary"
        return trained if trained.is_dir() else self.out / "ordered" / name

    def activations(self, layer: int) -> Path:
        return self.harvest_folder / f"layer-{layer}"

    def held_out(self, layer: int) -> list[Path]:
        return [
            self.out / "held-out" / file.stem / f"layer-{layer}" for file in self.held_out_files
        ]

    def manifest(self) -> Manifest:
        manifest: Manifest = json.loads((self.harvest_folder / "manifest.json").read_text())
        return manifest

    # MARK: What is asked for

    def configuration(self, run: Run) -> dict[str, Any]:
        """What config.json of the run must say."""
        return {
            "activations": [str(self.activations(run.layer))],
            "tokens": self.options.tokens,
            "learning_rate": self.plan.learning_rate(run, self.options.learning_rate),
            "batch_tokens": self.options.batch,
            "held_out_sequences": self.options.validation_sequences,
            **run.options,
        }

    def order_arguments(self, ordered: Ordered) -> list[object]:
        shards = sorted(self.activations(ordered.source.layer).glob("*.safetensors"))
        return [
            "order",
            self.dictionary(ordered.source.name),
            "--activations",
            *spread_out(shards),
            "--by",
            ordered.by,
            "--granularities",
            commas(self.plan_prefixes(ordered.source)),
            "--out",
            self.out / "ordered" / ordered.name,
        ]

    def plan_prefixes(self, run: Run) -> list[int]:
        """The plan's granularities in proportion to the run's latents."""
        return [run.latents * g // self.plan.n for g in self.plan.prefixes]

    def evaluations(
        self, name: str, run: Run, is_nested: bool
    ) -> Iterator[tuple[Path, list[object]]]:
        """Every file that is to be written about a dictionary, and the arguments that make it."""
        at = self.plan_prefixes(run) if is_nested else [run.latents]
        halfway = [run.latents * g // self.plan.n for g in self.plan.between] if is_nested else []
        folder = self.dictionary(name)
        yield (
            self.out / "evaluations" / f"{name}.json",
            [
                "evaluate",
                folder,
                "--activations",
                *self.held_out(run.layer),
                "--granularities",
                commas(sorted(at + halfway)),
                "--json",
            ],
        )
        if name in self.plan.with_loss:
            losses_at = at if self.plan.losses_of_prefixes else [run.latents]
            # Each file has a run of its own, so that the same number of tokens is replaced in each.
            for file in self.held_out_files:
                yield (
                    self.out / "losses" / name / f"{file.stem}.json",
                    [
                        "evaluate",
                        folder,
                        "--model",
                        self.model,
                        "--layer",
                        run.layer,
                        "--text",
                        file,
                        "--tokens",
                        self.options.loss_tokens // len(self.held_out_files),
                        "--granularities",
                        commas(losses_at),
                        "--without-decoder",
                        "--rsa-samples",
                        0,
                        "--json",
                    ],
                )

    def key(self, path: Path) -> str:
        return str(path.relative_to(self.out))

    @property
    def held_out_share(self) -> int:
        tokens: int = self.options.held_out_tokens
        return tokens // len(self.held_out_files)

    # MARK: Do the results that are there match the options?

    def check(self) -> None:
        """Must run before any work.

        Raises Unusable or Stale."""
        if self.options.activations:
            checked_harvest(self.harvest_folder, [2, 10], self.model, self.held_out_files)
        else:
            self.check_harvest(self.harvest_folder, self.options.unique_tokens)
        for file in self.held_out_files:
            self.check_harvest(self.out / "held-out" / file.stem, self.held_out_share)
        for run in self.plan.runs:
            if (self.run_folder(run.name) / "config.json").exists():
                self.check_run(run)
        for ordered in self.plan.all_ordered():
            folder = self.out / "ordered" / ordered.name
            if folder.exists():
                self.check_made(folder, self.order_arguments(ordered), ordered.source.name)
        for name, run, is_nested in self.plan.dictionaries():
            for path, arguments in self.evaluations(name, run, is_nested):
                if path.exists():
                    self.check_made(path, arguments, name)

    def check_harvest(self, folder: Path, tokens: int) -> None:
        path = folder / "manifest.json"
        asked = json.loads(path.read_text())["tokens_asked"] if path.exists() else tokens
        if asked != tokens:
            raise Stale(
                f"{folder}: is a harvest of {asked or 'all'} tokens, but {tokens} are asked for "
                "now: ask for the same number, or choose another --out"
            )

    def check_run(self, run: Run) -> None:
        folder = self.run_folder(run.name)
        stored = json.loads((folder / "config.json").read_text())
        if key := first_difference(stored, self.configuration(run)):
            there, wanted = stored.get(key), self.configuration(run).get(key)
            raise Stale(
                f"{folder}: has {key} {there}, but {wanted} is asked for now: remove the folder, "
                "ask for the same, or choose another --out"
            )
        tokens = self.ledger.entries.get(self.key(folder), {}).get("harvested_tokens")
        if tokens not in (None, self.manifest()["tokens"]):
            raise Stale(
                f"{folder}: was trained on a harvest of {tokens:,} tokens, which has "
                f"{self.manifest()['tokens']:,} now: remove the folder"
            )

    def check_made(self, path: Path, values: Sequence[object], source: str) -> None:
        """Checks that the same command made it, after what it was made from.

        Raises Stale."""
        weights = self.dictionary(source) / "sae_weights.safetensors"
        if not weights.exists():
            raise Stale(f"{path}: was made from {source}, which does not exist: remove it")
        arguments = [str(value) for value in values]
        made_by = self.ledger.arguments(self.key(path))
        if made_by != arguments:
            differ = (
                "its command is not known"
                if made_by is None
                else f"was made with {different(made_by, arguments)} now"
            )
            raise Stale(f"{path}: {differ}: remove it, ask for the same, or choose another --out")
        if modified(path) < modified(weights):
            raise Stale(f"{path}: is older than {source}, which it was made from: remove it")

    # MARK: Work

    def harvest(self) -> None:
        model = ["--model", self.model, "--layer", "2,10"]
        if self.options.activations is None:
            files = training_files(self.options.text, self.held_out_files)
            self.granule_run(
                "harvest",
                "harvest",
                *model,
                "--text",
                *files,
                "--tokens",
                self.options.unique_tokens,
                "--out",
                self.harvest_folder,
            )
        for file in self.held_out_files:
            self.granule_run(
                f"harvest {file.stem}",
                "harvest",
                *model,
                "--text",
                file,
                "--tokens",
                self.held_out_share,
                "--out",
                self.out / "held-out" / file.stem,
            )

    def train(self, run: Run) -> None:
        folder = self.run_folder(run.name)
        if self.is_trained(run.name):
            return
        key = self.key(folder)
        if (folder / "config.json").exists():
            self.granule_run(key, "train", "--resume", "--out", folder)
            return
        self.ledger.entries.pop(key, None)
        options = [
            part
            for name, value in self.configuration(run).items()
            for part in (FLAGS[name], commas(value) if isinstance(value, list) else value)
        ]
        harvested = self.manifest()["tokens"]
        self.granule_run(key, "train", *options, "--out", folder, harvested_tokens=harvested)

    def order(self, ordered: Ordered) -> None:
        folder = self.out / "ordered" / ordered.name
        if folder.exists() or not self.is_trained(ordered.source.name):
            return
        folder.parent.mkdir(exist_ok=True)
        self.granule_run(self.key(folder), *self.order_arguments(ordered))

    def evaluate(self, after_each: Callable[[], None], losses: bool) -> None:
        """Evaluates every trained dictionary that is not evaluated yet. losses: whether to measure
        recaptured loss too."""
        for name, run, is_nested in self.plan.dictionaries():
            if self.dictionary(name).is_dir():
                missing = [
                    (path, arguments)
                    for path, arguments in self.evaluations(name, run, is_nested)
                    if not path.exists() and (losses or "--model" not in arguments)
                ]
                for path, arguments in missing:
                    self.granule_run(self.key(path), *arguments, output=path)
                if missing:
                    after_each()

    def fit_laws(self) -> None:
        """Fits the scaling laws to the dictionaries that exist, and again once there are more."""
        for label, dictionaries in self.plan.laws.items():
            folders = [
                self.dictionary(d.name) for d in dictionaries if self.dictionary(d.name).is_dir()
            ]
            path = self.law(label)
            arguments = [
                "evaluate",
                *folders,
                "--activations",
                *self.held_out(10),
                "--without-decoder",
                "--rsa-samples",
                0,
                "--json",
            ]
            newest = max(map(modified, folders), default=0)
            made_by = self.ledger.arguments(self.key(path))
            if len(folders) < 3 or (
                path.exists() and modified(path) > newest and made_by == [str(a) for a in arguments]
            ):
                continue
            self.granule_run(self.key(path), *arguments, output=path)

    def law(self, label: str) -> Path:
        return self.out / "laws" / f"{label.split(',')[0].lower()}.json"

    def do(self, part: str, after_each: Callable[[], None]) -> None:
        for run in self.plan.runs:
            if run.part == part:
                self.train(run)
        for ordered in self.plan.all_ordered():
            self.order(ordered)
        self.evaluate(after_each, losses=part == "losses")

    # MARK: How far it is

    def tokens_done(self, run: Run) -> int:
        """Tokens trained on by the run's metrics, which may be more than its checkpoint has."""
        asked: int = self.options.tokens
        if self.is_trained(run.name):
            return asked
        path = self.run_folder(run.name) / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return min(last_count(lines), asked)

    def show(self, parts: Iterable[str]) -> None:
        left = 0
        for part in parts:
            for run in self.plan.runs:
                if run.part != part:
                    continue
                done = self.tokens_done(run)
                left += self.options.tokens - done
                state = "trained" if self.is_trained(run.name) else "begun" if done else ""
                seconds = self.ledger.seconds_of(f"runs/{run.name}")
                path = self.out / "evaluations" / f"{run.name}.json"
                print(
                    f"{part:10} {run.name:24} {state:8} {'evaluated' if path.exists() else '':10}"
                    f"{self.options.tokens - done:>14,} tokens left {seconds / 3600:8.2f} h"
                )
        print(f"{left:,} tokens left to train on in {', '.join(parts)}")


def commas(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def spread_out(shards: Sequence[Path]) -> Sequence[Path]:
    """At most four shards, spread evenly over all."""
    return shards[:: max(1, len(shards) // 4)][:4]


def modified(path: Path) -> int:
    """When the file changed, in nanoseconds; for a folder, when its weights changed."""
    return os.stat(path / "sae_weights.safetensors" if path.is_dir() else path).st_mtime_ns


def first_difference(stored: dict[str, Any], asked: dict[str, Any]) -> str | None:
    """The first option in which a run's config.json differs from what is asked for. A value that is
    missing equals its default, and floats may differ by rounding."""
    for key in FLAGS:
        there = stored.get(key, CONFIG_DEFAULTS.get(key)) or None
        wanted = asked.get(key, CONFIG_DEFAULTS.get(key)) or None
        if key == "k" and "k" not in asked:
            continue  # this objective has no k
        if (
            isinstance(there, float)
            and isinstance(wanted, int | float)
            and abs(there - wanted) < 1e-9 * abs(there)
        ):
            continue
        if there != wanted:
            return key
    return None


def last_count(lines: Sequence[str]) -> int:
    """The latest number of tokens in the lines of metrics.jsonl, the last of which may be half
    written; 0 if there is none."""
    found = [json.loads(line) for line in lines[-3:] if line.endswith("}")]
    counts: list[int] = [line["tokens"] for line in found if "tokens" in line]
    return counts[-1] if counts else 0


def different(before: Sequence[str], now: Sequence[str]) -> str:
    """The first argument that differs, in words."""
    for index, (a, b) in enumerate(zip(before, now, strict=False)):
        if a != b:
            return f"{before[index - 1]} {a}, and {b} is asked for"
    return f"{len(before)} arguments, and {len(now)} are asked for"
