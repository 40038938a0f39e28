"""Runs granule's commands for benchmarks/results.py: each once, and none on what is out of date."""
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from held_out import checked_harvest, training_files

# Options of granule train that a run asks for, by their names in its config.json.
FLAGS = {"activations": "--activations", "tokens": "--tokens", "learning_rate": "--learning-rate",
         "batch_tokens": "--batch", "held_out_sequences": "--held-out-sequences",
         "latents": "--latents", "granularities": "--granularities", "k": "--k", "seed": "--seed",
         "objective": "--objective", "granularity_weights": "--granularity-weights",
         "sampled_granularities": "--sample-granularities",
         "target_l0": "--target-l0"}
CONFIG_DEFAULTS = {"sampled_granularities": 0}


class Stale(Exception):
    """Something that is there already is not what is asked for now."""


class Ledger:
    """OUT/made.json: how each file or folder was made, and in how many seconds of wall time, summed
    over interruptions."""

    def __init__(self, out):
        self.path = out / "made.json"
        self.entries = json.loads(self.path.read_text()) if self.path.exists() else {}

    def arguments(self, key):
        return self.entries.get(key, {}).get("arguments")

    def seconds(self, prefix):
        return sum(e["seconds"] for key, e in self.entries.items() if key.startswith(prefix))

    def write(self):
        partial = self.path.with_name("made.json.partial")
        partial.write_text(json.dumps(self.entries, indent=1))
        partial.rename(self.path)

    def run(self, key, arguments, command, stdout=None, **facts):
        """Runs a command and adds its time, also where it is interrupted; one of other arguments that
        fails changes nothing."""
        replaced = None
        if self.arguments(key) != arguments and "--resume" not in arguments:
            replaced = self.entries.pop(key, None)
        entry = self.entries.setdefault(key, {"arguments": arguments, "seconds": 0.0})
        entry.update(facts)
        before, start = entry["seconds"], time.monotonic()
        with subprocess.Popen(command, stdout=stdout) as process:
            try:
                while True:
                    try:
                        code = process.wait(timeout=20)
                        break
                    except subprocess.TimeoutExpired:
                        pass  # so that a crash of this process loses no more than 20 seconds
                    finally:
                        entry["seconds"] = before + time.monotonic() - start
                        self.write()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)  # it may have it already; it leaves a checkpoint
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
    def __init__(self, options, plan, held_out):
        self.options, self.plan, self.held_out_files = options, plan, held_out
        self.out = options.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.model = options.model.resolve()
        self.granule = str(options.granule.resolve())
        self.ledger = Ledger(self.out)
        self.harvest_folder = (options.activations or self.out / "activations").resolve()

    def granule_run(self, key, *arguments, output=None, **facts):
        arguments = [str(argument) for argument in arguments]
        print("$ granule " + " ".join(arguments)[:300], flush=True)
        if output is None:
            self.ledger.run(key, arguments, [self.granule, *arguments], **facts)
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(output.name + ".partial")
        output.unlink(missing_ok=True)  # what is known of it is what makes it now
        with open(partial, "w") as file:
            self.ledger.run(key, arguments, [self.granule, *arguments], stdout=file)
        partial.rename(output)

    # MARK: Where things are

    def run_folder(self, name):
        return self.out / "runs" / name

    def is_trained(self, name):
        return (self.run_folder(name) / "dictionary").is_dir()

    def dictionary(self, name):
        trained = self.run_folder(name) / "dictionary"
        return trained if trained.is_dir() else self.out / "ordered" / name

    def activations(self, layer):
        return self.harvest_folder / f"layer-{layer}"

    def held_out(self, layer):
        return [self.out / "held-out" / file.stem / f"layer-{layer}"
                for file in self.held_out_files]

    def manifest(self):
        return json.loads((self.harvest_folder / "manifest.json").read_text())

    # MARK: What is asked for

    def configuration(self, run):
        """What config.json of the run must say."""
        return {"activations": [str(self.activations(run.layer))], "tokens": self.options.tokens,
                "learning_rate": self.plan.learning_rate(run, self.options.learning_rate),
                "batch_tokens": self.options.batch,
                "held_out_sequences": self.options.validation_sequences, **run.options}

    def order_arguments(self, ordered):
        shards = sorted(self.activations(ordered.source.layer).glob("*.safetensors"))
        return ["order", self.dictionary(ordered.source.name), "--activations",
                *shards[::max(1, len(shards) // 4)][:4], "--by", ordered.by, "--granularities",
                commas(self.plan_prefixes(ordered.source)), "--out",
                self.out / "ordered" / ordered.name]

    def plan_prefixes(self, run):
        return [run.latents * g // self.plan.n for g in self.plan.prefixes]

    def evaluations(self, name, run, is_nested):
        """Of each file that is to be written about a dictionary: its path and the arguments."""
        at = self.plan_prefixes(run) if is_nested else [run.latents]
        halfway = [run.latents * g // self.plan.n for g in self.plan.between] if is_nested else []
        folder = self.dictionary(name)
        yield self.out / "evaluations" / f"{name}.json", [
            "evaluate", folder, "--activations", *self.held_out(run.layer), "--granularities",
            commas(sorted(at + halfway)), "--json"]
        if name in self.plan.with_loss:
            losses_at = at if self.plan.losses_of_prefixes else [run.latents]
            # Each file by itself, so that as much of each is replaced.
            for file in self.held_out_files:
                yield self.out / "losses" / name / f"{file.stem}.json", [
                    "evaluate", folder, "--model", self.model, "--layer", run.layer, "--text", file,
                    "--tokens", self.options.loss_tokens // len(self.held_out_files),
                    "--granularities", commas(losses_at), "--without-decoder", "--rsa-samples", 0,
                    "--json"]

    def key(self, path):
        return str(path.relative_to(self.out))

    @property
    def held_out_share(self):
        return self.options.held_out_tokens // len(self.held_out_files)

    # MARK: Is what is there what is asked for?

    def check(self):
        """Before any work.

        - Throws: Unusable or Stale."""
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

    def check_harvest(self, folder, tokens):
        path = folder / "manifest.json"
        asked = json.loads(path.read_text())["tokens_asked"] if path.exists() else tokens
        if asked != tokens:
            raise Stale(f"{folder}: is a harvest of {asked or 'all'} tokens, now {tokens} are asked "
                        "for: ask for the same, or choose another --out")

    def check_run(self, run):
        folder = self.run_folder(run.name)
        stored = json.loads((folder / "config.json").read_text())
        asked = self.configuration(run)
        for key in FLAGS:
            there = stored.get(key, CONFIG_DEFAULTS.get(key)) or None
            wanted = asked.get(key, CONFIG_DEFAULTS.get(key)) or None
            if key == "k" and "k" not in asked:
                continue  # of no meaning to this objective
            if isinstance(there, float) and isinstance(wanted, (int, float)):
                wanted = there if abs(there - wanted) < 1e-9 * abs(there) else wanted
            if there != wanted:
                raise Stale(f"{folder}: has {key} {there}, now {wanted} is asked for: remove the "
                            "folder, ask for the same, or choose another --out")
        tokens = self.ledger.entries.get(self.key(folder), {}).get("harvested_tokens")
        if tokens not in (None, self.manifest()["tokens"]):
            raise Stale(f"{folder}: was trained on a harvest of {tokens:,} tokens, which has "
                        f"{self.manifest()['tokens']:,} now: remove the folder")

    def check_made(self, path, arguments, source):
        """That it was made by the same command, and not before what it was made of."""
        weights = self.dictionary(source) / "sae_weights.safetensors"
        if not weights.exists():
            raise Stale(f"{path}: was made of {source}, which is not there: remove it")
        arguments = [str(argument) for argument in arguments]
        made_by = self.ledger.arguments(self.key(path))
        if made_by != arguments:
            differ = ("its command is not known" if made_by is None else
                      f"was made with {different(made_by, arguments)} now")
            raise Stale(f"{path}: {differ}: remove it, ask for the same, or choose another --out")
        if modified(path) < modified(weights):
            raise Stale(f"{path}: is older than {source}, which it was made of: remove it")

    # MARK: Work

    def harvest(self):
        model = ["--model", self.model, "--layer", "2,10"]
        if self.options.activations is None:
            files = training_files(self.options.text, self.held_out_files)
            self.granule_run("harvest", "harvest", *model, "--text", *files, "--tokens",
                             self.options.unique_tokens, "--out", self.harvest_folder)
        for file in self.held_out_files:
            self.granule_run(f"harvest {file.stem}", "harvest", *model, "--text", file, "--tokens",
                             self.held_out_share, "--out", self.out / "held-out" / file.stem)

    def train(self, run):
        folder = self.run_folder(run.name)
        if self.is_trained(run.name):
            return
        key = self.key(folder)
        if (folder / "config.json").exists():
            self.granule_run(key, "train", "--resume", "--out", folder)
            return
        self.ledger.entries.pop(key, None)
        options = [part for name, value in self.configuration(run).items()
                   for part in (FLAGS[name], commas(value) if isinstance(value, list) else value)]
        self.granule_run(key, "train", *options, "--out", folder,
                         harvested_tokens=self.manifest()["tokens"])

    def order(self, ordered):
        folder = self.out / "ordered" / ordered.name
        if folder.exists() or not self.is_trained(ordered.source.name):
            return
        folder.parent.mkdir(exist_ok=True)
        self.granule_run(self.key(folder), *self.order_arguments(ordered))

    def evaluate(self, after_each, losses):
        """All that is trained and not evaluated yet; losses: whether also recaptured loss."""
        for name, run, is_nested in self.plan.dictionaries():
            if self.dictionary(name).is_dir():
                missing = [(path, arguments) for path, arguments
                           in self.evaluations(name, run, is_nested)
                           if not path.exists() and (losses or "--model" not in arguments)]
                for path, arguments in missing:
                    self.granule_run(self.key(path), *arguments, output=path)
                if missing:
                    after_each()

    def fit_laws(self):
        """The scaling laws, of what there is: made anew when there is more."""
        for label, dictionaries in self.plan.laws.items():
            folders = [self.dictionary(d.name) for d in dictionaries
                       if self.dictionary(d.name).is_dir()]
            path = self.law(label)
            arguments = ["evaluate", *folders, "--activations", *self.held_out(10),
                         "--without-decoder", "--rsa-samples", 0, "--json"]
            newest = max(map(modified, folders), default=0)
            made_by = self.ledger.arguments(self.key(path))
            if len(folders) < 3 or (path.exists() and modified(path) > newest
                                    and made_by == [str(a) for a in arguments]):
                continue
            self.granule_run(self.key(path), *arguments, output=path)

    def law(self, label):
        return self.out / "laws" / f"{label.split(',')[0].lower()}.json"

    def do(self, part, after_each):
        for run in self.plan.runs:
            if run.part == part:
                self.train(run)
        for ordered in self.plan.all_ordered():
            self.order(ordered)
        self.evaluate(after_each, losses=part == "losses")

    # MARK: How far it is

    def tokens_done(self, run):
        """As its metrics say: what a checkpoint may not have yet is counted, too."""
        if self.is_trained(run.name):
            return self.options.tokens
        path = self.run_folder(run.name) / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        # The last line may be half written.
        found = [json.loads(line) for line in lines[-3:] if line.endswith("}")]
        counts = [line["tokens"] for line in found if "tokens" in line]
        return min(counts[-1], self.options.tokens) if counts else 0

    def list(self, parts):
        left = 0
        for part in parts:
            for run in self.plan.runs:
                if run.part != part:
                    continue
                done = self.tokens_done(run)
                left += self.options.tokens - done
                state = "trained" if self.is_trained(run.name) else "begun" if done else ""
                seconds = self.ledger.entries.get(f"runs/{run.name}", {}).get("seconds", 0)
                path = self.out / "evaluations" / f"{run.name}.json"
                print(f"{part:10} {run.name:24} {state:8} {'evaluated' if path.exists() else '':10}"
                      f"{self.options.tokens - done:>14,} tokens left {seconds / 3600:8.2f} h")
        print(f"{left:,} tokens left to train on in {', '.join(parts)}")


def commas(values):
    return ",".join(map(str, values))


def modified(path):
    """Of a folder: of its weights."""
    return os.stat(path / "sae_weights.safetensors" if Path(path).is_dir() else path).st_mtime_ns


def different(before, now):
    for index, (a, b) in enumerate(zip(before, now)):
        if a != b:
            return f"{before[index - 1]} {a}, and {b} is asked for"
    return f"{len(before)} arguments, and {len(now)} are asked for"
