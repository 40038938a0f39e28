"""docs/results.md and its figure, from what benchmarks/results.py measured."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from line_plot import Point
from markdown_page import cell
from recaptured_loss import Row
from results_plan import BY_FREQUENCY, BY_SQUARE, Comparison
from results_work import Work
from study_page import EXCESS, RATIO, StudyPage
from verdict import FAILS, HOLDS, SPREADS, Measured, verdict, within

REORDERED = f"topk-by-{BY_SQUARE}"
MAIN = [
    ("matryoshka", "Matryoshka"),
    ("matryoshka-sampled", "Matryoshka, sampled granularities"),
    (f"matryoshka-by-{BY_SQUARE}", "Matryoshka, reordered by E[z²]"),
    (f"matryoshka-sampled-by-{BY_SQUARE}", "Matryoshka, sampled, reordered by E[z²]"),
    (REORDERED, "TopK, reordered by E[z²]"),
    (f"topk-by-{BY_FREQUENCY}", "TopK, reordered by frequency"),
    ("topk", "TopK, unordered"),
]
# Exponents that the paper found.
POWER_LAWS = {
    "decoder_covariance_eigenvalues": (-0.72, -0.54),
    "mean_squared_activation": (-1.27, -1.03),
    "frequency": (-1.20, -1.00),
}
METRICS = {"fvu": "FVU", RATIO: "CE ratio", EXCESS: "CE above clean"}

# One side of a claim: a dictionary's name, or a function of a granularity and a metric.
Side = str | Callable[[int, str], Measured]


class ComparisonPage(StudyPage):
    plan: Comparison

    def __init__(self, work: Work, plan: Comparison) -> None:
        super().__init__(work)
        self.plan = plan

    # MARK: Figures

    def scratch(self, granularity: int, key: str = "fvu") -> float | None:
        name = "topk" if granularity == self.n else self.plan.scratch[granularity]
        return self.at(name, granularity, key=key)

    def over_seeds(
        self,
        names: Iterable[str],
        granularity: int,
        sparsity: str = "fixed-ratio",
        key: str = "fvu",
    ) -> list[float]:
        """The metric of each of the dictionaries that is measured."""
        found = (self.at(name, granularity, sparsity, key) for name in names)
        return [value for value in found if value is not None]

    def spread(
        self, granularity: int, sparsity: str = "fixed-ratio", key: str = "fvu"
    ) -> float | None:
        """Standard deviation over the seeds of N/2 latents at the same share of the dictionary."""
        return larger_deviation(
            self.over_seeds(names, granularity // 2, sparsity, key)
            for names in self.plan.seeds.values()
        )

    def scaled(self, latents: int) -> list[int]:
        return [g * latents // self.n for g in self.prefixes]

    def excess(self, name: str, granularity: int, latents: int) -> float | None:
        """The share by which FVU halfway between two granularities is above the line through
        theirs."""
        before = max(g for g in self.scaled(latents) if g < granularity)
        return above_line([(g, self.at(name, g)) for g in (before, granularity, 2 * before)])

    # MARK: The page

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.introduction()
        self.fixed_ratio()
        self.as_trained()
        self.losses()
        self.say(
            "## Other measures at the fixed ratio",
            "RSA, the correlation of the distances between activations and of those between "
            "reconstructions:",
        )
        self.by_granularity(MAIN, "fixed-ratio", shown="rsa")
        self.say(
            "FVU where the variance is that from one mean over tokens and dimensions, which is "
            "how the paper words it:"
        )
        self.by_granularity(MAIN, "fixed-ratio", shown="fvu_scalar_mean")
        self.full_size("topk", "matryoshka", "matryoshka-sampled", "batchtopk", "jumprelu")
        self.seeds()
        self.weights()
        self.power_laws()
        self.claims()
        self.save(self.folder / "results.md")

    def introduction(self) -> None:
        report = self.report("matryoshka") or self.report("topk")
        loss = self.recaptured("matryoshka") or self.recaptured("topk")
        others = [
            f"[{page}]({page}) {what}"
            for page, what in [
                (
                    "results-grid.md",
                    "has what follows from size, sparsity and depth, with scaling laws",
                ),
                ("results-distillation.md", "what distillation came to"),
            ]
            if (self.folder / page).exists()
        ]
        self.say(
            "# Progressive coding, reproduced",
            "What [Empirical Evaluation of Progressive Coding for Sparse Autoencoders]"
            "(https://arxiv.org/abs/2505.00190) compares, on a small language model. "
            "[evaluation.md](evaluation.md) defines the metrics"
            + "".join("; " + other for other in others)
            + ". Everything here was trained and measured by",
            self.command(),
            f"{Path(self.work.manifest()['model']['file']).stem}, residual stream before block 10, "
            f"N = {self.n:,}, k = {self.k} at full size. "
            + self.data(report["tokens"] if report else 0)
            + f" Recaptured loss is measured on {loss['replaced_tokens'] if loss else 0:,} "
            "replaced tokens, as many of each file.",
        )
        self.summary()

    def fixed_ratio(self) -> None:
        self.say(
            "## FVU at the fixed ratio k · G / N",
            "What the paper compares. Trained from scratch: a TopK dictionary of G latents with "
            "the same k.",
        )
        scratch = {g: fvu for g in self.prefixes if (fvu := self.scratch(g))}
        row = ["TopK, trained from scratch"] + [cell(scratch.get(g)) for g in self.prefixes]
        self.by_granularity(MAIN, "fixed-ratio", further=[row] if scratch else [])
        curves = [
            ("matryoshka", "Matryoshka"),
            ("matryoshka-sampled", "Matryoshka, sampled"),
            (REORDERED, "TopK, reordered"),
            ("topk", "TopK, unordered"),
        ]
        series = {
            label: [(g, row["fvu"]) for g, row in sorted(self.rows(name).items())]
            for name, label in curves
            if self.rows(name)
        }
        if len(scratch) > 1:
            series["TopK from scratch"] = sorted(scratch.items())
        if series:
            self.figure(
                "fixed-ratio",
                "FVU by granularity, k in proportion",
                "lower is better; held-out text",
                "granularity G",
                "FVU",
                series,
            )

    def as_trained(self) -> None:
        self.say(
            "## FVU as trained",
            "With the k that each prefix holds in full-width codes, which is what a server "
            "uses: more active latents at small G. L0 stands below.",
        )
        self.by_granularity(MAIN[:-1], "as-trained")
        self.by_granularity(MAIN[:-1], "as-trained", shown="l0", digits=1)

    def losses(self) -> None:
        names = [m for m in MAIN if self.recaptured(m[0])]
        clean = self.recaptured(names[0][0]) if names else None
        if clean is None:
            return
        self.say(
            "## Recaptured loss",
            f"CE(clean) / CE(spliced) in the whole model; the clean cross-entropy is "
            f"{clean['cross_entropy_clean']:.4f} nats, with the mean in place of each "
            f"activation {clean['cross_entropy_mean']:.4f}. At the fixed ratio, then as trained:",
        )
        scratch = [self.scratch(g, RATIO) for g in self.prefixes]
        row = ["TopK, trained from scratch", *map(cell, scratch)]
        self.by_granularity(names, "fixed-ratio", RATIO, further=[row] if any(scratch) else [])
        self.by_granularity([m for m in names if m[0] != "topk"], "as-trained", RATIO)
        self.say(
            "The same as loss recovered, 1 − (spliced − clean) / (mean − clean), at the fixed "
            "ratio:"
        )
        self.by_granularity(names, "fixed-ratio", "loss_recovered_against_mean")

    def seeds(self) -> None:
        half = self.n // 2
        for key, what in [("fvu", "FVU"), (RATIO, "CE ratio")]:
            rows = []
            for label, names in self.plan.seeds.items():
                found = [self.rows(name, key=key) for name in names if self.rows(name, key=key)]
                if len(found) < 2:
                    continue
                cells = [mean_and_deviation([f[g][key] for f in found]) for g in self.scaled(half)]
                rows.append([f"{label}, {len(found)} seeds", *cells])
            if rows:
                self.say(
                    f"## Seeds, {what}",
                    f"N = {half:,}, k = {self.k}, {what} at the fixed "
                    "ratio: mean and standard deviation.",
                )
                self.table(["dictionary"] + [f"G = {g:,}" for g in self.scaled(half)], rows)

    def weights(self) -> None:
        half = self.n // 2
        weighted = {
            weight: name for weight, name in self.plan.full_size_weights.items() if self.rows(name)
        }
        if not weighted:
            return
        at = self.scaled(half)
        smallest, equal = at[0], self.plan.seeds["Matryoshka"]
        names = [(f"Matryoshka, equal weights, {len(equal)} seeds", equal)]
        names += [
            (f"Matryoshka, the last weight {weight}", [name]) for weight, name in weighted.items()
        ]
        names.append(("TopK, reordered by E[z²], 3 seeds", self.plan.seeds["TopK, reordered"]))
        self.say(
            "## What nesting costs the full dictionary",
            f"N = {half:,}, k = {self.k}. Training makes a weighted mean of the losses at each "
            "granularity small. Here that of the full dictionary weighs more than each of the "
            "others, to see what equal weights cost it. FVU as trained, with L0 in parentheses, "
            "means over seeds:",
        )

        def mean(names: Iterable[str], g: int, key: str = "fvu") -> float | None:
            values = self.over_seeds(names, g, "as-trained", key)
            return statistics.mean(values) if values else None

        self.table(
            ["dictionary"] + [f"G = {g:,}" for g in at],
            [
                [label] + [f"{cell(mean(found, g))} ({cell(mean(found, g, 'l0'), 0)})" for g in at]
                for label, found in names
            ],
        )
        for g, text in [
            (half, "The weight brings FVU at full size down"),
            (smallest, f"… and FVU at G {smallest:,}, as trained, up"),
        ]:
            self.lines.append(
                verdict(
                    text,
                    {
                        f"weight {weight}": (mean([name], g), mean(equal, g))
                        for weight, name in weighted.items()
                    },
                    higher_is_better=g != half,
                    spread={
                        f"weight {weight}": self.spread(2 * g, "as-trained") for weight in weighted
                    },
                )
            )
        self.lines.append("")

    def laws(self) -> dict[tuple[str, str], Row]:
        return {
            (name, law["of"]): law
            for name in ("topk", "matryoshka", "matryoshka-sampled")
            for law in (self.report(name) or {}).get("power_laws", [])
            if law["exponent"] is not None
        }

    def power_laws(self) -> None:
        rows = [
            [
                f"{name}, {of.replace('_', ' ')}",
                f"{law['exponent']:.2f}",
                cell(law["r_squared"], 2),
            ]
            for (name, of), law in self.laws().items()
        ]
        if rows:
            self.say(
                "## Power laws",
                "The paper: eigenvalues −0.54 … −0.72, E[z²] −1.03 … −1.27, "
                "frequency −1.00 … −1.20, over ranks that it does not state; here 1 % to 50 %.",
            )
            self.table(["values", "exponent", "R²"], rows)
        shares = []
        for name, label in MAIN:
            found = self.activation_mass(name)
            if found:
                shares.append([label] + [cell(found.get(g), 3) for g in self.prefixes])
        if shares:
            self.say(
                "The share of the activation mass, E[z²] of unit decoder rows, that the first G "
                "latents hold:"
            )
            self.table(["dictionary"] + [f"G = {g:,}" for g in self.prefixes], shares)

    def activation_mass(self, name: str) -> dict[int, float]:
        """The share that the first G latents hold, by G."""
        mass = (self.report(name) or {}).get("activation_mass", {}).get("share_of_first", [])
        return {row["latents"]: row["share"] for row in mass}

    # MARK: Claims

    def claim(
        self,
        text: str,
        left: Side,
        right: Side,
        granularities: Sequence[int],
        sparsity: str = "fixed-ratio",
        factor: float = 1.0,
        keys: Sequence[str] = ("fvu", RATIO),
    ) -> list[str]:
        """Adds a verdict for each metric, and returns them."""

        def value(side: Side, g: int, key: str) -> Measured:
            return self.at(side, g, sparsity, key) if isinstance(side, str) else side(g, key)

        def l0(side: Side, g: int) -> str:
            measured = self.at(side, g, sparsity, "l0") if isinstance(side, str) else None
            return f"L0 {cell(measured, 0)}"

        verdicts = []
        for key in keys:
            notes = (
                {f"G {g:,}": (l0(left, g), l0(right, g)) for g in granularities}
                if sparsity == "as-trained" and isinstance(right, str)
                else None
            )
            verdicts.append(
                verdict(
                    f"{text}, {METRICS[key]}",
                    {
                        f"G {g:,}": (value(left, g, key), value(right, g, key))
                        for g in granularities
                    },
                    higher_is_better=key == RATIO,
                    factor=factor,
                    notes=notes,
                    spread={f"G {g:,}": self.spread(g, sparsity, key) for g in granularities},
                )
            )
        self.lines += verdicts
        return verdicts

    def claims(self) -> None:
        self.say(
            "## The paper's claims",
            "At the fixed ratio, where nothing else is said. A difference decides only where it is "
            f"more than {SPREADS} times the seeds' spread, which stands in parentheses: the "
            f"standard deviation over seeds at N = {self.n // 2:,}, at the same G / N, the larger "
            "of the two kinds'. Two seeds of one kind are further apart than that about 3 times in "
            "100. Where no spread was measured, every difference decides. One dictionary in two "
            "orders differs by less chance than two seeds do, so that for claims about order this "
            "is strict. CE ratio saturates at 1; where something is to be within some per cent, "
            "how far cross-entropy is above clean says more.",
        )
        comparable = ("fvu", RATIO, EXCESS)
        self.claim(
            "Matryoshka beats reordered TopK at every G below N",
            "matryoshka",
            REORDERED,
            self.below,
        )
        self.claim("… as trained, too", "matryoshka", REORDERED, self.below, "as-trained")
        full_size = self.claim(
            "At full size Matryoshka is within 5 % of TopK",
            "matryoshka",
            "topk",
            [self.n],
            factor=1.05,
            keys=comparable,
        )
        self.claim("Reordered TopK beats unordered", REORDERED, "topk", self.below)
        self.claim(
            "E[z²] is the better order than frequency",
            REORDERED,
            f"topk-by-{BY_FREQUENCY}",
            self.below,
        )
        reordering = self.claim(
            "Reordering a Matryoshka dictionary helps",
            f"matryoshka-by-{BY_SQUARE}",
            "matryoshka",
            self.below,
        )
        near = [g for g in self.below if 4 * g >= self.n]
        comparable_prefixes = []
        for name, label in [("matryoshka", "A Matryoshka"), (REORDERED, "A reordered TopK")]:
            comparable_prefixes += self.claim(
                f"{label} prefix with G/N ≥ 1/4 is within 10 % of a dictionary trained from scratch"
                "",
                name,
                self.scratch,
                near,
                factor=1.1,
                keys=comparable,
            )
            self.lines.append(self.feature_splitting(name))
        self.claims_about_sampling()
        exponents = self.claims_about_power_laws()
        self.correlation()
        self.lines.append("")
        self.say(
            "Not tested here: the stepped blocks of decoder similarity and the plateaus of "
            "activation mass by index, which `granule evaluate --html` draws; interpretability "
            "as an explaining language model scores it."
        )
        self.disagreements(full_size, reordering, comparable_prefixes, exponents)

    def claims_about_sampling(self) -> None:
        sampled, fixed = "matryoshka-sampled", "matryoshka"
        self.claim("Sampled granularities improve the trained ones", sampled, fixed, self.below)
        self.claim("… as trained, too", sampled, fixed, self.below, "as-trained")
        self.claim("… and those between them", sampled, fixed, self.plan.between, keys=("fvu",))
        self.smoothness()

    def claims_about_power_laws(self) -> list[str]:
        laws: dict[str, dict[str, tuple[float, float, float]]] = {}
        for (name, of), law in self.laws().items():
            laws.setdefault(of, {})[name] = (law["exponent"], *POWER_LAWS[of])
        exponents = [
            within(
                f"Power law of {of.replace('_', ' ')}: the exponent is in the paper's range",
                laws.get(of, {}),
            )
            for of in POWER_LAWS
        ]
        self.lines += exponents
        return exponents

    def feature_splitting(self, name: str) -> str:
        scratch = {g: value for g in self.below if (value := self.scratch(g))}
        prefix = {g: value for g in scratch if (value := self.at(name, g))}
        pairs, spreads = gaps(prefix, scratch, {g: self.spread(g) for g in prefix})
        return verdict(
            "… and less so the smaller G/N, FVU over that from scratch", pairs, spread=spreads
        )

    def disagreements(
        self,
        full_size: Iterable[str],
        reordering: Iterable[str],
        prefixes: Iterable[str],
        exponents: Iterable[str],
    ) -> None:
        """What is known about why a claim does not hold, in figures that are measured here."""

        def fails(verdicts: Iterable[str]) -> bool:
            return any("does not hold" in line for line in verdicts)

        reasons = []
        held = self.activation_mass("matryoshka")
        first = self.prefixes[0]
        l0 = self.at("matryoshka", first, "as-trained", "l0")
        if fails(full_size) and l0 and first in held:
            reasons.append(
                f"Full size: the nested losses draw activity to the front. As trained {l0:.0f} of "
                f"the {self.k} active latents are among the first {first:,}, which hold "
                f"{100 * held[first]:.0f} % of the activation mass."
                + (
                    " Where the full dictionary's loss weighs more there are fewer, and its FVU "
                    "comes down: the table of weights."
                    if any(map(self.rows, self.plan.full_size_weights.values()))
                    else ""
                )
            )
        if fails(prefixes) and l0:
            reasons.append(
                f"Prefixes against dictionaries from scratch: the fixed ratio gives the first "
                f"{first:,} latents {self.k * first // self.n} active ones, where training left "
                f"them {l0:.0f}. The paper evaluates so as well; its dictionaries are trained on "
                "three times the tokens, of a larger model."
            )
        if fails(reordering):
            reasons.append(
                "Reordering Matryoshka: its prefixes were trained in the order that they "
                "have; what E[z²] moves into a prefix was not trained to do without the "
                "rest. That this is the reason was not tested."
            )
        if fails(exponents):
            reasons.append(
                "Power laws: of another model and depth, with fewer latents and tokens; "
                "the ranks that the paper fitted are not known."
            )
        if reasons:
            self.say("### Where it disagrees")
            self.lines += [f"- {reason}" for reason in reasons]

    def smoothness(self) -> None:
        pairs: dict[str, tuple[Measured, Measured]] = {}
        spreads: dict[str, Measured] = {}
        for g in self.plan.between:
            label = f"G {g:,}"
            pairs[label] = (
                self.excess("matryoshka-sampled", g, self.n),
                self.excess("matryoshka", g, self.n),
            )
            found = [
                self.excess(name, g // 2, self.n // 2) for name in self.plan.seeds["Matryoshka"]
            ]
            values = [value for value in found if value is not None]
            if len(values) > 1:
                spreads[label] = statistics.stdev(values)
        self.lines.append(
            verdict(
                "Sampling smooths: between two granularities FVU is less above the line through "
                "theirs (log–log, as a share of FVU) than with fixed ones",
                pairs,
                spread=spreads,
            )
        )

    def correlation(self) -> None:
        """Over dictionaries, granularities and k; each code counts once."""
        points: dict[tuple[str, int, int], tuple[float, float]] = {}
        for name in sorted(self.plan.with_loss):
            for sparsity in ("fixed-ratio", "as-trained"):
                held_out = self.rows(name, sparsity)
                for g, row in self.rows(name, sparsity, RATIO).items():
                    # At full size the order of the latents changes nothing.
                    if g in held_out and not (g == max(held_out) and "-by-" in name):
                        points[name, g, held_out[g]["k"]] = (held_out[g]["fvu"], row[RATIO])
        if len(points) > 2:
            fvus, ratios = zip(*points.values(), strict=True)
            pearson = statistics.correlation(fvus, ratios)
            by_rank = statistics.correlation(ranks(fvus), ranks(ratios))
            word = HOLDS if is_strong(pearson, by_rank) else FAILS
            self.lines.append(
                f"- FVU and recaptured loss correlate (CE ratio falls as FVU grows; −0.9 or "
                f"stronger): **{word}**. Pearson's r {pearson:.3f}, of ranks {by_rank:.3f}, over "
                f"{len(points)} codes, each of a dictionary, a granularity and a k."
            )


def larger_deviation(kinds: Iterable[Sequence[float]]) -> float | None:
    """The largest of the kinds' standard deviations (n − 1); None before each has two values."""
    found = list(kinds)
    return max(map(statistics.stdev, found)) if all(len(values) > 1 for values in found) else None


def mean_and_deviation(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def above_line(points: Sequence[tuple[float, float | None]]) -> float | None:
    """The share by which y at the middle one of three points is above the line, in log–log space,
    between the outer two: more than 0 on a plateau after the first. None if one is not measured."""
    places: list[Point] = [(math.log(x), math.log(y)) for x, y in points if y]
    if len(places) < 3:
        return None
    (x0, y0), (x, y), (x1, y1) = places
    return math.exp(y - y0 - (y1 - y0) * (x - x0) / (x1 - x0)) - 1


def gaps(
    prefix: Mapping[int, float], scratch: Mapping[int, float], spread: Mapping[int, float | None]
) -> tuple[dict[str, tuple[Measured, Measured]], dict[str, Measured]]:
    """For the claim that the ratio of a prefix's FVU to that from scratch falls as the granularity
    grows: the ratios of neighbours, that of the larger one first, and the spread of that ratio.
    prefix, scratch and spread are by granularity, ascending."""
    pairs: dict[str, tuple[Measured, Measured]] = {}
    spreads: dict[str, Measured] = {}
    for a, b in pairwise(prefix):
        label = f"G {b:,} and {a:,}"
        pairs[label] = (prefix[b] / scratch[b], prefix[a] / scratch[a])
        relative = [value / scratch[g] for g in (a, b) if (value := spread[g]) is not None]
        spreads[label] = max(relative) if len(relative) == 2 else None
    return pairs, spreads


def is_strong(*correlations: float) -> bool:
    """Whether each correlation is negative and at least 0.9 in magnitude."""
    return max(correlations) <= -0.9


def ranks(values: Sequence[float]) -> list[float]:
    """Each value's place in ascending order, from 0 on; equal values share the mean of theirs."""
    order = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(order)))}
    last = {value: place for place, value in enumerate(order)}
    return [(first[value] + last[value]) / 2 for value in values]
