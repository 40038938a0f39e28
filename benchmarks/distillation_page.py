"""Writes the page of scripts/distill, results-distillation.md, and its figures from its record.

python3 benchmarks/distillation_page.py RECORD PAGE TEXT "SEEDS" "KS"
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from held_out import text_page
from line_plot import line_plot
from markdown_page import MarkdownPage, cell
from recaptured_loss import Row, recaptured_loss
from verdict import Measured, verdict, within

# What the verdicts call the same L0, well above chance, most latents, and slightly worse.
SAME_L0, ABOVE, MOST, SLIGHTLY = 1.1, 2.0, 0.5, 0.02
RECOVERED = "loss_recovered_against_mean"

# {"with": row, "without": row} of one granularity.
Pair = dict[str, Row]


class Page(MarkdownPage):
    def __init__(
        self, record: Path, page: Path, text: Path, seeds: Sequence[str], ks: Sequence[str]
    ) -> None:
        super().__init__()
        self.record, self.page, self.text, self.seeds, self.ks = record, page, text, seeds, ks
        lines = (record / "settings").read_text().splitlines()
        self.settings = dict(line.split("=", 1) for line in lines if "=" in line)
        (self.model,) = (line.split()[1] for line in lines if line.startswith("model "))
        self.held_out = dict(
            line.removeprefix("held out ").rsplit(" ", 1)
            for line in lines
            if line.startswith("held out ")
        )
        self.reports = {seed: self.load(f"seed-{seed}.json") for seed in seeds}

    def load(self, name: str) -> Row:
        report: Row = json.loads((self.record / name).read_text())
        return report

    def write(self) -> None:
        self.introduction()
        self.say(
            "## Cycles",
            "Core: the latents whose encoder vectors the cycle began with, frozen. Candidates: "
            "they and the first granularity after them, the innermost reconstruction, in which "
            "attribution is measured. Selected: the fewest candidates that have "
            f"{float(self.settings['COVERAGE']):.0%} of it, and how many of them were of the core; "
            "the columns after that: how many have other shares. FVU and L0 are on sequences of "
            "the harvest that training left out; with the core alone no dictionary was trained to "
            "reconstruct, so that its FVU may be above 1. Floored: the share of steps in which the "
            "core alone had more than three quarters of k active latents, so that L0 is above k. "
            "Seconds are of a machine that had other work at times.",
        )
        for seed in self.seeds:
            self.cycles(seed)
        self.overlap()
        self.comparison()
        self.claims()
        self.save(self.page / "results-distillation.md")

    def introduction(self) -> None:
        command = " ".join(
            f"{name}='{value}'" if " " in value else f"{name}={value}"
            for name, value in self.settings.items()
        )
        files = " and ".join(self.held_out)
        harvest = self.load("harvest.json")
        attributed = self.reports[self.seeds[0]]["cycles"][0]["attributed_tokens"]
        fvu_tokens = self.load(f"without-core-k{self.ks[0]}.json")["tokens"]
        replaced = self.recaptured(f"without-core-k{self.ks[0]}")["replaced_tokens"]
        self.say(
            "# Distillation, reproduced",
            "What the pipeline of [distillation.md](distillation.md) came to. What the "
            "dictionaries themselves are worth is in [results.md](results.md). Made by",
            f"```\nTEXT={self.text.name} {command} \\\n"
            f"  SEEDS='{' '.join(self.seeds)}' OTHER_KS='{' '.join(self.ks[1:])}' "
            "scripts/distill\n```",
            f"on {Path(self.model).stem}, {harvest['tokens']:,} tokens, read from the first of "
            f"{harvest['files']} files in a fixed order that mixes their kinds until there were as "
            f"many, {int(self.settings['TOKENS']) / harvest['tokens']:.1f} passes over them in "
            f"each cycle and for each dictionary; in each cycle {attributed:,} tokens of those "
            f"files are attributed. Held out from both: {files}."
            f"{text_page(self.page, self.held_out.values())} FVU with and without the core is "
            f"measured on {fvu_tokens:,} tokens of them, loss recovered on {replaced:,} replaced "
            "tokens, as many of each.",
            "All else is the default of `granule distill`: a latent's score is the 0.99 quantile "
            "of its absolute attributions over the tokens at which it is active, and the final "
            "core has what was selected in at least half of the cycles.",
        )

    def cycles(self, seed: str) -> None:
        report = self.reports[seed]
        self.say(f"### Seed {seed}")
        shares = [share for share, _ in report["cycles"][0]["latents_for_coverage"]]
        self.table(
            [
                "cycle",
                "core",
                "candidates",
                "selected",
                "of them of the core",
                *(f"{100 * share:g} %" for share in shares),
                "FVU of the core",
                "innermost FVU",
                "FVU",
                "L0 of the core",
                "L0",
                "floored",
                "training, s",
                "attribution, s",
            ],
            map(cycle_row, report["cycles"]),
        )
        frequencies = [feature["frequency"] for feature in report["cycles"][-1]["selected"]]
        self.say(
            f"The final core has {report['core_latents']} latents; cycles that selected them: "
            f"{how_often(report['selections'])}. What the last cycle selected is active for "
            f"{min(frequencies):.0%} to {max(frequencies):.0%} of the tokens, "
            f"{statistics.median(frequencies):.1%} in the median."
        )
        name = f"results-distillation-coverage-{seed}.svg"
        title = f"Attribution explained by the fewest latents, seed {seed}"
        (self.page / name).write_text(
            line_plot(
                title,
                "of the innermost granularity, the highest scores first",
                "latents",
                "share of attribution",
                {
                    f"cycle {cycle['cycle']}": [
                        (0, 0),
                        *((count, share) for share, count in cycle["latents_for_coverage"]),
                    ]
                    for cycle in report["cycles"]
                },
                log_x=False,
            )
        )
        self.say(f"![{title}]({name})")

    def pairs_of_seeds(self) -> list[tuple[str, str]]:
        """Each seed after the first, and the file that compares its core with the first one's."""
        return [(f"overlap-{self.seeds[0]}-{seed}.json", seed) for seed in self.seeds[1:]]

    def overlaps(self) -> list[tuple[str, str]]:
        """Every file with an overlap, and what it compares."""
        first, others = self.seeds[0], self.seeds[1:]
        found = [
            (name, f"final core of seed {first} in that of seed {seed}")
            for name, seed in self.pairs_of_seeds()
        ]
        found += [
            (
                f"overlap-innermost-{first}-{seed}.json",
                f"innermost latents without a core, seed {first} in seed {seed}",
            )
            for seed in others
        ]
        found += [
            (
                f"overlap-first-{first}-{seed}.json",
                f"what cycle 1 of seed {first} selected in that of seed {seed}",
            )
            for seed in others
        ]
        return found + [
            (
                f"overlap-cycles-{n - 1}-{n}.json",
                f"what cycle {n - 1} of seed {first} selected in that of cycle {n}",
            )
            for n in range(2, len(self.reports[first]["cycles"]) + 1)
        ]

    def overlap(self) -> None:
        rows = [
            row for name, title in self.overlaps() for row in overlap_rows(self.load(name), title)
        ]
        self.say(
            "## Overlap: the largest cosine of encoder vectors",
            "From cycle to cycle the core's vectors are copied and frozen: those that were "
            "selected again have a cosine of 1 with themselves. "
            + (
                "Without a core: dictionaries of the same seeds whose first granularity is as "
                "large as the seed's final core; what their innermost latents share is not "
                "distilling's doing. "
                if self.pairs_of_seeds()
                else ""
            )
            + "The latents of a core have a direction in common, which most others do not have: "
            "latents drawn at random, from the second one's whole dictionary, can be further away "
            "than random directions, and what a latent has with the others of its own selection "
            "tells how much of a likeness is that direction.",
        )
        self.table(["", "latents", "mean", "≥ 0.5", "≥ 0.7", "≥ 0.9"], rows)

    def recaptured(self, name: str) -> Row:
        return recaptured_loss(sorted((self.record / "losses" / name).glob("*.json")))

    def measured(self, k: str) -> dict[int, Pair]:
        """The rows as trained of both sides, by granularity, if both have it."""
        found: dict[int, Pair] = {}
        for which in ("with", "without"):
            name = f"{which}-core-k{k}"
            losses = as_trained(self.recaptured(name)["rows"])
            for granularity, row in as_trained(self.load(f"{name}.json")["rows"]).items():
                found.setdefault(granularity, {})[which] = {
                    **row,
                    RECOVERED: losses[granularity][RECOVERED],
                }
        return {g: rows for g, rows in found.items() if len(rows) == 2}

    def comparison(self) -> None:
        rows = [
            [k, f"{granularity:,}", *figures(pair["with"]), *figures(pair["without"])]
            for k in self.ks
            for granularity, pair in self.measured(k).items()
        ]
        core = len(self.reports[self.seeds[0]]["selections"])
        self.say(
            "## With and without the core, on the same tokens",
            f"With: the {core} latents of seed {self.seeds[0]}'s final core, distilled at k = "
            f"{self.ks[0]}, first and frozen, the other latents trained beside them. Without: the "
            "same number of latents, at the same granularities, none of them given. Both of one "
            "seed, which is none of those above.",
        )
        self.table(
            [
                "k",
                "granularity",
                "L0 with",
                "FVU with",
                "recovered with",
                "dead with",
                "L0 without",
                "FVU without",
                "recovered without",
                "dead without",
            ],
            rows,
        )
        floored = "; ".join(f"{100 * self.floored_share(k):.0f} % at k {k}" for k in self.ks)
        self.say(
            "Recovered: 1 − (spliced − clean) / (mean − clean) of the next-token loss. Dead: "
            "latents that are active for none of the tokens. All on the held-out text. The first "
            "granularity at each k is the core alone, which no dictionary was trained to "
            f"reconstruct with. Steps floored with the core: {floored}."
        )

    def floored_share(self, k: str) -> float:
        return float((self.record / f"floored-k{k}").read_text())

    # MARK: Claims

    def comparable(self, k: str) -> tuple[dict[int, Pair], list[str]]:
        """Granularities with about the same L0 on both sides, and the names of the others. The
        first one is the core alone, which neither side was trained on."""
        return of_same_l0(dict(list(self.measured(k).items())[1:]))

    def claims(self) -> None:
        self.say(
            "## The paper's claims",
            "There is one pair of dictionaries at each k, so that how much of a difference is "
            "chance is not known. Where L0 differs by more than a tenth nothing is compared; "
            "below that it stands beside each figure, and the side with the larger one has that "
            f"much of an advantage. That {SLIGHTLY:g} is slight is our own choice: at full size "
            "cross-entropy is further above clean with the core by "
            + self.of_full_size(lambda row: 1 - row[RECOVERED])
            + ".",
        )
        for k in self.ks:
            same, others = self.comparable(k)
            losses = {
                f"G {g:,} ({l0(row['with'])} with, {l0(row['without'])} without)": (
                    row["without"][RECOVERED] - row["with"][RECOVERED],
                    0.0,
                    SLIGHTLY,
                )
                for g, row in same.items()
            }
            self.compare(
                f"Loss recovered is slightly worse with the core (by up to {SLIGHTLY:g}), k = {k}",
                others,
                losses,
                partial(within, values=losses, digits=4),
            )
        self.lines.append("")
        self.say(
            "Not tested: that distilled dictionaries do better on SAEBench at low L0, and "
            "worse at high L0; RAVEL; that features transfer to other sparsities, of which there "
            "is only what the core costs at other k, below."
        )
        self.say("## Our own questions")
        self.better(
            self.ks[0],
            "With the core FVU is at least as good as without, at k = "
            f"{self.ks[0]}, for which it was distilled",
        )
        for k in self.ks[1:]:
            self.better(k, f"With the core FVU is at least as good as without, at k = {k}")
        self.lines.append(
            "- At full size FVU with the core is above that without by "
            + self.of_full_size(lambda row: row["fvu"])
            + "."
        )
        self.sizes()
        if self.pairs_of_seeds():
            self.overlap_above_chance()

    def sizes(self) -> None:
        for seed, report in self.reports.items():
            cycles = report["cycles"]
            self.lines.append(
                f"- The core's size, seed {seed}: "
                + " → ".join(str(len(cycle["selected"])) for cycle in cycles)
                + ". Selected of the candidates: "
                + ", ".join(f"{100 * len(c['selected']) / c['candidates']:.0f} %" for c in cycles)
                + "; kept of the core before: "
                + (
                    ", ".join(
                        f"{100 * c['kept'] / c['core_latents']:.0f} %"
                        for c in cycles
                        if c["core_latents"]
                    )
                    or "–"
                )
                + ". A constant share s of the candidates makes it grow towards s / (1 − s) times "
                f"the first granularity, {self.settings['GRANULARITIES'].split(',')[0]}."
            )

    def overlap_above_chance(self) -> None:
        alike: dict[str, tuple[Measured, Measured]] = {}
        among, found, undistilled = alike.copy(), alike.copy(), alike.copy()
        for name, seed in self.pairs_of_seeds():
            overlap, label = self.load(name), f"seeds {self.seeds[0]} and {seed}"
            mean = {
                key: overlap[key]["mean_largest_cosine"]
                for key in ("second", "first", "random_latents", "random_directions")
            }
            alike[label] = mean["second"], max(mean["random_latents"], mean["random_directions"])
            among[label] = mean["second"], mean["first"]
            found[label] = overlap["second"]["share_at_least_0.7"], MOST
            innermost = self.load(f"overlap-innermost-{self.seeds[0]}-{seed}.json")
            undistilled[label] = mean["second"], innermost["second"]["mean_largest_cosine"]
        for claim, pairs, factor in [
            (
                f"Seeds' cores are alike: mean largest cosine at least {ABOVE:g} times that of "
                "chance, latents or directions drawn at random, whichever is larger",
                alike,
                1 / ABOVE,
            ),
            ("… and larger than with the others of the same core", among, 1),
            (
                f"Seeds find the same core: {100 * MOST:.0f} % of one's latents have one in the "
                "other with a cosine of at least 0.7",
                found,
                1,
            ),
            (
                "Distilling makes the seeds more alike: mean largest cosine of the cores against "
                "that of as many innermost latents without a core",
                undistilled,
                1,
            ),
        ]:
            self.lines.append(verdict(claim, pairs, higher_is_better=True, factor=factor, digits=3))

    def of_full_size(self, value: Callable[[Row], float]) -> str:
        """The share by which the value is larger with the core than without, at each k."""
        pairs = {k: list(self.measured(k).values())[-1] for k in self.ks}
        more = {k: value(row["with"]) / value(row["without"]) - 1 for k, row in pairs.items()}
        return ", ".join(f"{100 * share:.0f} % at k {k}" for k, share in more.items())

    def better(self, k: str, claim: str) -> None:
        same, others = self.comparable(k)
        pairs: dict[str, tuple[Measured, Measured]] = {
            f"G {g:,}": (row["with"]["fvu"], row["without"]["fvu"]) for g, row in same.items()
        }
        notes = {f"G {g:,}": (l0(row["with"]), l0(row["without"])) for g, row in same.items()}
        self.compare(claim, others, pairs, partial(verdict, pairs=pairs, notes=notes))

    def compare(
        self,
        claim: str,
        others: Iterable[str],
        pairs: Mapping[str, object],
        judge: Callable[[str], str],
    ) -> None:
        """Adds what `judge` says about the claim, if there are pairs to judge by. others: names of
        the granularities at which L0 differs."""
        if not pairs:
            self.lines.append(f"- {claim}: **not comparable**, L0 differs at each granularity.")
            return
        where = f" (not at {', '.join(others)}, where L0 differs)" if others else ""
        self.lines.append(judge(claim + where))


def cycle_row(cycle: Row) -> list[object]:
    """The table's row of one distillation cycle."""
    has_core = cycle["core_latents"] > 0
    measured = cycle["granularities"]
    floored = cycle["floored_share"]
    return [
        cycle["cycle"],
        cycle["core_latents"],
        cycle["candidates"],
        len(cycle["selected"]),
        cycle["kept"],
        *(count for _, count in cycle["latents_for_coverage"]),
        cell(measured[0]["fvu"]) if has_core else "–",
        cell(measured[1 if has_core else 0]["fvu"]),
        cell(measured[-1]["fvu"]),
        cell(measured[0]["l0"], 1) if has_core else "–",
        cell(measured[-1]["l0"], 1),
        "–" if floored is None else f"{100 * floored:.0f} %",
        seconds(cycle["training_seconds"]),
        seconds(cycle["attribution_seconds"]),
    ]


def how_often(counts: Sequence[int]) -> str:
    """counts: in how many cycles each latent was selected. "3 in 5, 1 in 4": the number of latents
    with each count, the largest first."""
    return ", ".join(f"{counts.count(n)} in {n}" for n in sorted(set(counts), reverse=True))


def overlap_rows(overlap: Row, title: str) -> Iterable[list[object]]:
    """The table's rows of one overlap: with the other selection, and with what chance gives."""
    for key, against in [
        ("second", title),
        ("first", "… in the others of the same selection"),
        ("random_latents", "… in as many latents drawn at random"),
        ("random_directions", "… in as many random directions"),
    ]:
        found = overlap[key]
        yield [
            against,
            "{} in {}".format(*overlap["latents"]) if key == "second" else "",
            cell(found["mean_largest_cosine"], 3),
            *(f"{100 * found[f'share_at_least_{least}']:.1f} %" for least in ("0.5", "0.7", "0.9")),
        ]


def figures(row: Row) -> list[str]:
    return [
        cell(row["l0"], 1),
        cell(row["fvu"]),
        cell(row[RECOVERED]),
        f"{row['dead_latents']:,}",
    ]


def of_same_l0(rows: Mapping[int, Pair]) -> tuple[dict[int, Pair], list[str]]:
    """The granularities at which the larger L0 is at most SAME_L0 times the smaller, and the names
    of the others."""
    same = {}
    for g, pair in rows.items():
        values = [row["l0"] for row in pair.values()]
        if max(values) <= SAME_L0 * min(values):
            same[g] = pair
    return same, [f"G {g:,}" for g in rows if g not in same]


def as_trained(rows: Iterable[Row]) -> dict[int, Row]:
    return {row["granularity"]: row for row in rows if row["sparsity"] == "as-trained"}


def l0(row: Row) -> str:
    return f"L0 {row['l0']:.1f}"


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    record, page, text, seeds, ks = sys.argv[1:]
    Page(Path(record), Path(page), Path(text), seeds.split(), ks.split()).write()
