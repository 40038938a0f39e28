"""What the pages of benchmarks/results.py have in common."""
import json
import statistics

from held_out import text_page
from line_plot import line_plot
from markdown_page import MarkdownPage
from recaptured_loss import recaptured_loss

RATIO, EXCESS = "cross_entropy_ratio", "cross_entropy_excess"
OF_LOSS = (RATIO, EXCESS, "loss_recovered_against_mean")


class StudyPage(MarkdownPage):
    def __init__(self, work):
        super().__init__()
        self.work, self.plan = work, work.plan
        self.n, self.k = work.plan.n, work.plan.k
        self.prefixes, self.below = work.plan.prefixes, work.plan.prefixes[:-1]
        self.folder = work.options.page

    # MARK: Figures

    def report(self, name):
        path = self.work.out / "evaluations" / f"{name}.json"
        if not path.exists():
            return None
        report = json.loads(path.read_text())
        return report["dictionaries"][0] if "dictionaries" in report else report

    def recaptured(self, name):
        """Means over the tokens of all held-out files."""
        files = sorted((self.work.out / "losses" / name).glob("*.json"))
        if len(files) < len(self.work.held_out_files):
            return None
        return recaptured_loss(files)

    def rows(self, name, sparsity="fixed-ratio", key="fvu"):
        """By granularity; where both sparsities have the same k, or there is no k, the row there is."""
        report = self.recaptured(name) if key in OF_LOSS else self.report(name)
        return by_granularity(report["rows"], sparsity) if report else {}

    def at(self, name, granularity, sparsity="fixed-ratio", key="fvu"):
        return self.rows(name, sparsity, key).get(granularity, {}).get(key)

    # MARK: Markdown

    def figure(self, name, title, *arguments, **keywords):
        (self.folder / f"results-{name}.svg").write_text(line_plot(title, *arguments, **keywords))
        self.say(f"![{title}](results-{name}.svg)")

    def by_granularity(self, names, sparsity, key="fvu", digits=4, shown=None, further=()):
        rows = []
        for name, label in names:
            found = self.rows(name, sparsity, key)
            if found:
                rows.append([label] + [cell(found.get(g, {}).get(shown or key), digits)
                                       for g in self.prefixes])
        rows += further
        if rows:
            self.table(["dictionary"] + [f"G = {g:,}" for g in self.prefixes], rows)
        else:
            self.say("Not measured yet.")

    def full_size(self, *names):
        """What a dictionary of each kind is worth, beside the L0 that it came to."""
        rows, reached = [], []
        for name in names:
            row = self.rows(name).get(self.n)
            if row is None:
                continue
            in_training = self.trained_l0(name)
            rows.append([name, cell(in_training, 1), cell(row["l0"], 1), cell(row["fvu"]),
                         row["dead_latents"], cell(self.at(name, self.n, key=RATIO))])
            if name in ("batchtopk", "jumprelu"):
                reached.append(f"{name} reached {cell(in_training, 1)} in training and "
                               f"{row['l0']:.1f} on held-out text")
        if not rows:
            return
        self.say("## At full size", "L0 in training is the mean of the last 100 steps, that of "
                 "held-out text with the thresholds that are served. Dead latents are never active "
                 "on the held-out text."
                 + (f" Asked for was {self.k}: " + "; ".join(reached) + "." if reached else ""))
        self.table(["dictionary", "L0 in training", "L0 held out", "FVU", "dead latents",
                    "CE ratio"], rows)

    def trained_l0(self, name):
        path = self.work.run_folder(name) / "metrics.jsonl"
        values = [line["l0"] for line in map(json.loads, path.read_text().splitlines())
                  if "l0" in line]
        return statistics.mean(values[-100:]) if values else None

    def command(self):
        """What makes the page."""
        options, manifest = self.work.options, self.work.manifest()
        sizes = "" if (self.n, self.k) == (16384, 64) else f" --latents {self.n} --k {self.k}"
        return ("```\npython3 benchmarks/results.py --study " + options.study
                + " --model MODEL.gguf --text FOLDER \\\n"
                f"  --unique-tokens {manifest['tokens_asked'] or manifest['tokens']} "
                f"--tokens {options.tokens} --batch {options.batch} "
                f"--learning-rate {options.learning_rate:g} \\\n"
                f"  --held-out-tokens {options.held_out_tokens} --loss-tokens {options.loss_tokens}"
                f"{sizes}\n```")

    def data(self, tokens):
        """On what was trained and measured; tokens: how many FVU is measured on."""
        options, manifest = self.work.options, self.work.manifest()
        files = " and ".join(file.name for file in self.work.held_out_files)
        return (f"Each dictionary was trained on {options.tokens:,} tokens, that is "
                f"{options.tokens / manifest['tokens']:.1f} passes over {manifest['tokens']:,} tokens, "
                f"read from the first of {len(manifest['text'])} files in a fixed order that mixes "
                f"their kinds until there were as many. Held out: {files}."
                + text_page(self.folder, [text["sha256"] for text in manifest["text"]])
                + f" FVU is measured on "
                f"{tokens:,} tokens of them. Learning rate {options.learning_rate:g} · √({self.n:,} / "
                f"N), batches of {options.batch:,}; seed 0 where none is named.")

    def summary(self):
        """Wall time, and what is missing."""
        trained = [run.name for run in self.plan.runs if self.work.is_trained(run.name)]
        seconds = self.work.ledger.seconds
        harvested_here = self.work.options.activations is None
        harvest = ("harvest " + hours(seconds("harvest")) if harvested_here else
                   "harvest not measured, it was there already (of the held-out text "
                   + hours(seconds("harvest")) + ")")
        measured = [name for name in trained if f"runs/{name}" in self.work.ledger.entries]
        training = sum(self.work.ledger.entries[f"runs/{name}"]["seconds"] for name in measured)
        evaluation = sum(map(seconds, ("ordered/", "evaluations/", "losses/", "laws/")))
        self.say(f"Wall time: {harvest}; training {hours(training)} for {len(measured)} of "
                 f"{len(self.plan.runs)} dictionaries; ordering and evaluation {hours(evaluation)}.")
        missing = [run.name for run in self.plan.runs if run.name not in trained]
        if missing:
            self.say("Not trained yet: " + ", ".join(missing) + ".")
        missing = [name for name in sorted(self.plan.with_loss)
                   if self.work.dictionary(name).is_dir() and not self.recaptured(name)]
        if missing:
            self.say("Recaptured loss not measured yet: " + ", ".join(missing) + ".")


def by_granularity(rows, sparsity):
    result = {}
    for row in rows:
        if row["granularity"] not in result or row["sparsity"] == sparsity:
            result[row["granularity"]] = row
    return result


def cell(value, digits=4):
    return "–" if value is None else f"{value:.{digits}f}"


def hours(seconds):
    return f"{seconds / 3600:.2f} h"
