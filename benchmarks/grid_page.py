"""docs/results-grid.md and its figure, from what benchmarks/results.py --study grid measured."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from line_plot import Point
from markdown_page import cell
from recaptured_loss import Row
from results_plan import BY_SQUARE, Grid
from results_work import Work
from study_page import StudyPage, by_granularity
from verdict import Measured, verdict

DEPTH = [
    ("matryoshka-layer2", "Matryoshka"),
    (f"topk-layer2-by-{BY_SQUARE}", "TopK, reordered by E[z²]"),
]


class GridPage(StudyPage):
    plan: Grid

    def __init__(self, work: Work, plan: Grid) -> None:
        super().__init__(work)
        self.plan = plan

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.introduction()
        self.grid()
        self.full_size("topk", "matryoshka", "batchtopk", "jumprelu")
        self.scaling_laws()
        self.depth()
        self.claims()
        self.save(self.folder / "results-grid.md")

    def introduction(self) -> None:
        manifest = self.work.manifest()
        report = self.report("topk") or self.report(self.plan.runs[0].name)
        loss = self.recaptured("topk")
        sizes = ", ".join(f"{n:,}" for n in self.plan.sizes)
        ks = ", ".join(map(str, self.plan.ks))
        self.say(
            "# Progressive coding: sizes, sparsity and depth",
            "What follows from the size of a dictionary and the number of its active latents, and "
            "whether it is the same near the depth that the paper looked at. "
            "[results.md](results.md) compares the kinds of dictionaries, trained on more tokens; "
            "[evaluation.md](evaluation.md) defines the metrics. Made by",
            self.command(),
            f"{Path(manifest['model']['file']).stem}, residual stream before block 10 and, at the "
            f"end, before block 2: TopK dictionaries of {sizes} latents with k = {ks}, Matryoshka "
            f"dictionaries of {self.n:,} with the same k, BatchTopK and JumpReLU with an L0 of "
            f"{self.k}. "
            + self.data(report["tokens"] if report else 0)
            + (
                f" Recaptured loss is measured on {loss['replaced_tokens']:,} replaced tokens, as "
                "many of each file."
                if loss
                else ""
            ),
        )
        self.summary()

    def grid(self) -> None:
        series = {
            f"TopK, N = {n:,}": [(k, n, self.plan.topk(n, k)) for k in self.plan.ks]
            for n in self.plan.sizes
        }
        series[f"Matryoshka, N = {self.n:,}"] = [
            (k, self.n, self.plan.matryoshka(k)) for k in self.plan.ks
        ]
        rows = {
            label: {k: self.rows(name).get(n) for k, n, name in names}
            for label, names in series.items()
        }
        points = {
            label: [(row["l0"], row["fvu"]) for row in found.values() if row]
            for label, found in rows.items()
        }
        if all(len(found) < 2 for found in points.values()):
            return
        for name, label in [("batchtopk", "BatchTopK"), ("jumprelu", "JumpReLU")]:
            if row := self.rows(name).get(self.n):
                points[label] = [(row["l0"], row["fvu"])]
        points = {label: found for label, found in points.items() if found}
        self.say("## Sparsity and fidelity", "FVU at full size, over k, which is L0 there:")
        self.table(
            ["dictionary"] + [f"k = {k}" for k in self.plan.ks],
            [
                [label] + [cell(row["fvu"] if row else None) for row in found.values()]
                for label, found in rows.items()
                if points.get(label)
            ],
        )
        self.say(
            "On the frontier, where no other has at most as many active latents and at most as "
            "much FVU, there are points of: " + "; ".join(on_frontier(points)) + "."
        )
        self.reversals()
        self.figure(
            "frontier",
            "Sparsity–fidelity frontier",
            "lower is better; held-out text",
            "L0",
            "FVU",
            points,
        )

    def reversals(self) -> None:
        """Where a larger dictionary has more FVU."""
        found = [
            f"N = {large:,} has more FVU than {small:,} at k = {k}"
            for k in self.plan.ks
            for small, large in pairwise(self.plan.sizes)
            if is_more(self.topk_fvu(large, k), self.topk_fvu(small, k))
        ]
        if found:
            self.say(
                "Larger is not better everywhere: " + "; ".join(found) + ". All were trained "
                f"on the same {self.work.options.tokens:,} tokens, which are fewer for each "
                "latent the more latents there are; no learning rate was tuned, and how much of "
                "it is chance is not known."
            )

    def topk_fvu(self, n: int, k: int) -> float:
        """FVU at full size; NaN, which is neither more nor less, if it is not measured."""
        return self.at(self.plan.topk(n, k), n) or math.nan

    def scaling_laws(self) -> None:
        reports = {
            label: json.loads(path.read_text())
            for label in self.plan.laws
            if (path := self.work.law(label)).exists()
        }
        found = {
            label: [law for law in report["scaling_laws"] if law["points"] > len(law["terms"])]
            for label, report in reports.items()
        }
        if not any(found.values()):
            return
        self.say(
            "## Scaling laws",
            "log FVU of one kind of dictionary, by least squares: N latents, the first G of them, "
            "K of those active. Each coefficient with its standard error. A fit that mixed kinds "
            "would take what the kinds differ by for an effect of N or G.",
        )
        for label, laws in found.items():
            dictionaries = reports[label]["dictionaries"]
            sizes = sorted({d["latents"] for d in dictionaries})
            for law in laws:
                self.lines.append(
                    f"- {label}, {len(dictionaries)} dictionaries, N of "
                    f"{', '.join(f'{n:,}' for n in sizes)}, {law['sparsity']}"
                    f"{', with a floor' if law['has_floor'] else ''}, {law['points']} points, R² "
                    f"{law['r_squared']:.4f}: " + ", ".join(map(term, law["terms"])) + "."
                )
        self.lines.append("")

    def depth(self) -> None:
        if any(self.rows(name) for name, _ in DEPTH):
            self.say(
                "## After two blocks, near the paper's depth",
                "Before block 2, where the first is block 0. FVU at the fixed ratio.",
            )
            self.by_granularity(DEPTH, "fixed-ratio")

    # MARK: Claims

    def claims(self) -> None:
        self.say(
            "## The paper's claims",
            "There is one dictionary of each kind, so that how much of a difference is chance is "
            "not known here; over seeds it is in results.md.",
        )
        self.matryoshka_against_topk()
        self.prefixes_against_scratch()

    def claim(
        self, text: str, pairs: Mapping[str, tuple[Measured, Measured]], factor: float = 1.0
    ) -> None:
        self.lines.append(verdict(text, pairs, factor=factor))

    def matryoshka_against_topk(self) -> None:
        for k in self.plan.ks:
            reordered = f"{self.plan.topk(self.n, k)}-by-{BY_SQUARE}"
            self.claim(
                f"Matryoshka beats reordered TopK at every G below N, k = {k}, FVU",
                {
                    f"G {g:,}": (self.at(self.plan.matryoshka(k), g), self.at_law(reordered, g))
                    for g in self.below
                },
            )
        self.claim(
            "At full size Matryoshka is within 5 % of TopK, FVU",
            {
                f"k {k}": (
                    self.at(self.plan.matryoshka(k), self.n),
                    self.at(self.plan.topk(self.n, k), self.n),
                )
                for k in self.plan.ks
            },
            factor=1.05,
        )
        (matryoshka, _), (topk, _) = DEPTH
        self.claim(
            "Before block 2 Matryoshka beats reordered TopK at every G below N, FVU",
            {f"G {g:,}": (self.at(matryoshka, g), self.at(topk, g)) for g in self.below},
        )

    def at_law(self, name: str, granularity: int) -> float | None:
        """FVU at the fixed ratio of a dictionary that is only part of a scaling law's fit."""
        for label in self.plan.laws:
            if (path := self.work.law(label)).exists():
                for dictionary in json.loads(path.read_text())["dictionaries"]:
                    if dictionary["dictionary"] == name:
                        rows = by_granularity(dictionary["rows"], "fixed-ratio")
                        return rows.get(granularity, {}).get("fvu")
        return None

    def prefixes_against_scratch(self) -> None:
        """Compares prefixes with the k of the fixed ratio, and with the L0 that training left."""
        near = [g for g in self.below if g in self.plan.sizes]
        fixed: dict[str, tuple[Measured, Measured]] = {}
        trained: dict[str, tuple[Measured, Measured]] = {}
        for k in self.plan.ks:
            name = self.plan.matryoshka(k)
            for g in near:
                scratch = k * g // self.n
                if scratch in self.plan.ks:
                    fixed[f"k {k}, G {g:,}"] = (
                        self.at(name, g),
                        self.at(self.plan.topk(g, scratch), g),
                    )
                row = self.rows(name, "as-trained").get(g)
                if row:
                    trained[f"k {k}, G {g:,} (L0 {row['l0']:.0f})"] = (
                        row["fvu"],
                        self.scratch_at_l0(g, row["l0"]),
                    )
        self.claim(
            "A Matryoshka prefix with G/N ≥ 1/4 is within 10 % of a TopK dictionary trained "
            "from scratch with G latents and k · G / N, FVU",
            fixed,
            factor=1.1,
        )
        self.claim(
            "… as trained, of one with its L0 (between the two nearest k that were trained), FVU",
            trained,
            factor=1.1,
        )

    def scratch_at_l0(self, granularity: int, l0: float) -> float | None:
        """FVU that a TopK dictionary of `granularity` latents would have with that L0."""
        found = [self.rows(self.plan.topk(granularity, k)).get(granularity) for k in self.plan.ks]
        return between_nearest([(row["l0"], row["fvu"]) for row in found if row], l0)


def is_more(large: float, small: float) -> bool:
    """Whether it shows in the four decimals of the page; False if one is NaN."""
    return large > small + 1e-4


def on_frontier(points: Mapping[str, Sequence[Point]]) -> list[str]:
    """Labels of the series with a point to which no other point of any series is at most equal in
    both coordinates."""
    every = {point for found in points.values() for point in found}
    ahead = [
        label
        for label, found in points.items()
        for x, y in found
        if not any(a <= x and b <= y for a, b in every - {(x, y)})
    ]
    return list(dict.fromkeys(ahead))


def between_nearest(points: Iterable[Point], x: float) -> float | None:
    """y at x along the line, in log–log space, between the two nearest points; None beyond them."""
    for (x0, y0), (x1, y1) in pairwise(sorted(points)):
        if x0 <= x <= x1:
            share = math.log(x / x0) / math.log(x1 / x0) if x1 > x0 else 0
            return math.exp(math.log(y0) + share * math.log(y1 / y0))
    return None


def term(found: Row) -> str:
    """A term of a scaling law, with its coefficient and standard error."""
    name = {"1": "constant", "floor: 1": "floor: constant"}.get(found["term"], found["term"])
    if found["coefficient"] is None:
        return f"{name} not identified"
    error = found["standard_error"]
    return f"{name} {found['coefficient']:.3f} ± {'unknown' if error is None else f'{error:.3f}'}"
