"""What the pages of benchmarks/results.py have in common."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from held_out import text_page
from line_plot import Point, line_plot
from markdown_page import MarkdownPage, cell
from recaptured_loss import Row, recaptured_loss
from results_plan import Plan
from results_work import Work

RATIO, EXCESS = "cross_entropy_ratio", "cross_entropy_excess"
OF_LOSS = (RATIO, EXCESS, "loss_recovered_against_mean")


class StudyPage(MarkdownPage):
    plan: Plan

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self.n, self.k = work.plan.n, work.plan.k
        self.prefixes, self.below = work.plan.prefixes, work.plan.prefixes[:-1]
        self.folder = work.options.page

    # MARK: Figures

    def report(self, name: str) -> Row | None:
        path = self.work.out / "evaluations" / f"{name}.json"
        if not path.exists():
            return None
        report: Row = json.loads(path.read_text())
        if "dictionaries" in report:
            report = report["dictionaries"][0]
        return report

    def recaptured(self, name: str) -> Row | None:
        """Means over the tokens of all held-out files; None before every file has been measured."""
        files = sorted((self.work.out / "losses" / name).glob("*.json"))
        if len(files) < len(self.work.held_out_files):
            return None
        return recaptured_loss(files)

    def rows(self, name: str, sparsity: str = "fixed-ratio", key: str = "fvu") -> dict[int, Row]:
        """The dictionary's rows that have `key`, by granularity."""
        report = self.recaptured(name) if key in OF_LOSS else self.report(name)
        return by_granularity(report["rows"], sparsity) if report else {}

    def at(
        self, name: str, granularity: int, sparsity: str = "fixed-ratio", key: str = "fvu"
    ) -> float | None:
        return self.rows(name, sparsity, key).get(granularity, {}).get(key)

    # MARK: Markdown

    def figure(
        self,
        name: str,
        title: str,
        subtitle: str,
        x_label: str,
        y_label: str,
        series: Mapping[str, Sequence[Point]],
    ) -> None:
        plot = line_plot(title, subtitle, x_label, y_label, series)
        (self.folder / f"results-{name}.svg").write_text(plot)
        self.say(f"![{title}](results-{name}.svg)")

    def by_granularity(
        self,
        names: Iterable[tuple[str, str]],
        sparsity: str,
        key: str = "fvu",
        digits: int = 4,
        shown: str | None = None,
        further: Iterable[list[str]] = (),
    ) -> None:
        """A table with a row for each dictionary, of (name, label), and a column for each prefix.
        key: selects the rows of FVU or of recaptured loss; shown: the metric, if not the key."""
        rows = []
        for name, label in names:
            found = self.rows(name, sparsity, key)
            if found:
                cells = [cell(found.get(g, {}).get(shown or key), digits) for g in self.prefixes]
                rows.append([label, *cells])
        rows += further
        if rows:
            self.table(["dictionary"] + [f"G = {g:,}" for g in self.prefixes], rows)
        else:
            self.say("Not measured yet.")

    def full_size(self, *names: str) -> None:
        """A table of what a dictionary of each kind is worth, beside the L0 that it reached."""
        rows, reached = [], []
        for name in names:
            row = self.rows(name).get(self.n)
            if row is None:
                continue
            in_training = self.trained_l0(name)
            rows.append(
                [
                    name,
                    cell(in_training, 1),
                    cell(row["l0"], 1),
                    cell(row["fvu"]),
                    row["dead_latents"],
                    cell(self.at(name, self.n, key=RATIO)),
                ]
            )
            if name in ("batchtopk", "jumprelu"):
                reached.append(
                    f"{name} reached {cell(in_training, 1)} in training and "
                    f"{row['l0']:.1f} on held-out text"
                )
        if not rows:
            return
        self.say(
            "## At full size",
            "L0 in training is the mean of the last 100 steps, that of "
            "held-out text with the thresholds that are served. Dead latents are never active "
            "on the held-out text."
            + (f" Asked for was {self.k}: " + "; ".join(reached) + "." if reached else ""),
        )
        self.table(
            ["dictionary", "L0 in training", "L0 held out", "FVU", "dead latents", "CE ratio"], rows
        )

    def trained_l0(self, name: str) -> float | None:
        path = self.work.run_folder(name) / "metrics.jsonl"
        return mean_of_last(map(json.loads, path.read_text().splitlines()), "l0", 100)

    def command(self) -> str:
        """The command that makes the page, as a code block."""
        options, manifest = self.work.options, self.work.manifest()
        sizes = "" if (self.n, self.k) == (16384, 64) else f" --latents {self.n} --k {self.k}"
        return (
            f"```\npython3 benchmarks/results.py --study {options.study}"
            " --model MODEL.gguf --text FOLDER \\\n"
            f"  --unique-tokens {manifest['tokens_asked'] or manifest['tokens']} "
            f"--tokens {options.tokens} --batch {options.batch} "
            f"--learning-rate {options.learning_rate:g} \\\n"
            f"  --held-out-tokens {options.held_out_tokens} --loss-tokens {options.loss_tokens}"
            f"{sizes}\n```"
        )

    def data(self, tokens: int) -> str:
        """What was trained on and what was measured on. tokens: how many FVU is measured on."""
        options, manifest = self.work.options, self.work.manifest()
        files = " and ".join(file.name for file in self.work.held_out_files)
        return (
            f"Each dictionary was trained on {options.tokens:,} tokens, that is "
            f"{options.tokens / manifest['tokens']:.1f} passes over {manifest['tokens']:,} tokens, "
            f"read from the first of {len(manifest['text'])} files in a fixed order that mixes "
            f"their kinds until there were as many. Held out: {files}."
            + text_page(self.folder, [text["sha256"] for text in manifest["text"]])
            + " FVU is measured on "
            f"{tokens:,} tokens of them. Learning rate {options.learning_rate:g} · √({self.n:,} / "
            f"N), batches of {options.batch:,}; seed 0 where none is named."
        )

    def summary(self) -> None:
        """Wall time, and what is missing."""
        trained = [run.name for run in self.plan.runs if self.work.is_trained(run.name)]
        ledger = self.work.ledger
        harvest_hours = hours(ledger.seconds("harvest"))
        harvest = (
            f"harvest {harvest_hours}"
            if self.work.options.activations is None
            else "harvest not measured, it was there already (of the held-out text "
            + harvest_hours
            + ")"
        )
        measured = [name for name in trained if f"runs/{name}" in ledger.entries]
        training = sum(ledger.seconds_of(f"runs/{name}") for name in measured)
        evaluation = sum(map(ledger.seconds, ("ordered/", "evaluations/", "losses/", "laws/")))
        self.say(
            f"Wall time: {harvest}; training {hours(training)} for {len(measured)} of "
            f"{len(self.plan.runs)} dictionaries; ordering and evaluation {hours(evaluation)}."
        )
        missing = [run.name for run in self.plan.runs if run.name not in trained]
        if missing:
            self.say("Not trained yet: " + ", ".join(missing) + ".")
        missing = [
            name
            for name in sorted(self.plan.with_loss)
            if self.work.dictionary(name).is_dir() and not self.recaptured(name)
        ]
        if missing:
            self.say("Recaptured loss not measured yet: " + ", ".join(missing) + ".")


def by_granularity(rows: Iterable[Row], sparsity: str) -> dict[int, Row]:
    """One row for each granularity: that of the sparsity, or if it has none (both sparsities have
    the same k there, or there is no k) the only one."""
    result: dict[int, Row] = {}
    for row in rows:
        if row["granularity"] not in result or row["sparsity"] == sparsity:
            result[row["granularity"]] = row
    return result


def mean_of_last(lines: Iterable[dict[str, Any]], key: str, count: int) -> float | None:
    """Mean of the last `count` lines that have the key; None if no line has."""
    values = [line[key] for line in lines if key in line]
    return statistics.mean(values[-count:]) if values else None


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h"
