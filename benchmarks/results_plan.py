"""What benchmarks/results.py trains, orders and measures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

BY_SQUARE, BY_FREQUENCY = "mean-squared-activation", "frequency"


def prefixes(latents: int) -> list[int]:
    return [latents // 16, latents // 8, latents // 4, latents // 2, latents]


def between(latents: int) -> list[int]:
    """The sizes halfway from each prefix to the next."""
    return [(a + b) // 2 for a, b in pairwise(prefixes(latents))]


@dataclass
class Run:
    """A dictionary that is trained, the part of the study that it belongs to, and the options that
    its config.json must show."""

    name: str
    part: str
    latents: int
    k: int
    layer: int = 10
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_nested(self) -> bool:
        return len(self.options["granularities"]) > 1


@dataclass
class Ordered:
    """A dictionary made from a trained one by sorting its latents."""

    name: str
    source: Run
    by: str


class Plan:
    """A study whose sizes are in proportion to N latents, of which k are active in the full
    dictionary."""

    PARTS: tuple[str, ...]
    UNIQUE_TOKENS: int
    TOKENS: int

    def __init__(self, latents: int, k: int) -> None:
        self.n, self.k = latents, k
        self.prefixes, self.between = prefixes(latents), between(latents)
        self.ks = [k // 4, k // 2, k, 2 * k]
        self.runs: list[Run] = []
        self.ordered: list[Ordered] = []
        self.ordered_for_laws: list[Ordered] = []
        # Dictionaries whose recaptured loss is measured too. It takes a pass of the language model
        # for each granularity.
        self.with_loss: set[str] = set()
        self.losses_of_prefixes = True
        # Dictionaries that each scaling law is fitted to: of one kind, and of different N, G and K.
        self.laws: dict[str, list[Ordered] | list[Run]] = {}

    def add(
        self,
        name: str,
        part: str,
        latents: int | None = None,
        k: int | None = None,
        nested: bool = False,
        layer: int = 10,
        **options: object,
    ) -> None:
        latents, k = latents or self.n, k or self.k
        options = {
            "latents": latents,
            "granularities": prefixes(latents) if nested else [latents],
            "seed": 0,
            "objective": "topk",
            **options,
        }
        if options["objective"] != "jumprelu":
            options["k"] = k
        self.runs.append(Run(name, part, latents, k, layer, options))

    def order(self, name: str, by: str) -> Ordered:
        source = next(run for run in self.runs if run.name == name)
        return Ordered(f"{name}-by-{by}", source, by)

    def all_ordered(self) -> list[Ordered]:
        return [*self.ordered, *self.ordered_for_laws]

    def topk(self, latents: int, k: int) -> str:
        return "topk" if (latents, k) == (self.n, self.k) else f"topk-{latents}-k{k}"

    def matryoshka(self, k: int) -> str:
        return "matryoshka" if k == self.k else f"matryoshka-k{k}"

    def dictionaries(self) -> Iterable[tuple[str, Run, bool]]:
        """Everything that is evaluated by itself: its name, its run, and whether its prefixes mean
        anything."""
        for run in self.runs:
            yield run.name, run, run.is_nested or run.name == "topk"
        for ordered in self.ordered:
            yield ordered.name, ordered.source, True

    def learning_rate(self, run: Run, largest: float) -> float:
        """largest · √(N / latents). It is not tuned on the held-out text."""
        return float(f"{largest * math.sqrt(self.n / run.latents):.6g}")


class Comparison(Plan):
    """Compares kinds of dictionaries."""

    # The last part is the recaptured loss of the dictionaries compared by it. It alone takes hours.
    PARTS = ("main", "scratch", "baselines", "seeds", "weights", "losses")
    UNIQUE_TOKENS, TOKENS = 8_200_000, 16_400_000

    def __init__(self, latents: int, k: int) -> None:
        super().__init__(latents, k)
        n, run = latents, self.add
        self.scratch = {g: f"topk-{g}-k{k * g // n}" for g in self.prefixes[:-1]}
        run("matryoshka", "main", nested=True)
        run("topk", "main")
        run("matryoshka-sampled", "main", nested=True, sampled_granularities=5)
        for g, name in self.scratch.items():
            run(name, "scratch", g, k * g // n)
        run("batchtopk", "baselines", objective="batchtopk")
        run("jumprelu", "baselines", objective="jumprelu", target_l0=k)
        topk_seeds = [self.topk(n // 2, k), f"topk-{n // 2}-seed1", f"topk-{n // 2}-seed2"]
        for seed, name in enumerate(topk_seeds):
            run(name, "seeds", n // 2, seed=seed)
        matryoshka_seeds = [f"matryoshka-{n // 2}-seed{seed}" for seed in (0, 1, 2)]
        for seed, name in enumerate(matryoshka_seeds):
            run(name, "seeds", n // 2, nested=True, seed=seed)
        # These show what the equal weights of the nested losses cost the full dictionary.
        self.full_size_weights = {
            4: f"matryoshka-{n // 2}-weight4",
            16: f"matryoshka-{n // 2}-weight16",
        }
        for weight, name in self.full_size_weights.items():
            run(name, "weights", n // 2, nested=True, granularity_weights=[1, 1, 1, 1, weight])

        self.ordered = [
            self.order("topk", BY_SQUARE),
            self.order("topk", BY_FREQUENCY),
            self.order("matryoshka", BY_SQUARE),
            self.order("matryoshka-sampled", BY_SQUARE),
        ]
        seeds = [self.order(name, BY_SQUARE) for name in topk_seeds]
        # Three seeds of each kind at half the size show how far apart chance alone sets two runs.
        self.seeds = {
            "Matryoshka": matryoshka_seeds,
            "TopK, reordered": [ordered.name for ordered in seeds],
        }
        self.with_loss = {
            "matryoshka",
            "matryoshka-sampled",
            "topk",
            "batchtopk",
            "jumprelu",
            *self.scratch.values(),
            *(name for names in self.seeds.values() for name in names),
            *(ordered.name for ordered in self.ordered),
        }
        self.ordered += seeds


class Grid(Plan):
    """Varies size and k, to show what follows from them, and looks at a second depth. Each
    dictionary is trained on fewer tokens."""

    PARTS = ("sizes", "nested", "depth", "baselines", "losses")
    UNIQUE_TOKENS, TOKENS = 4_100_000, 4_100_000

    def __init__(self, latents: int, k: int) -> None:
        super().__init__(latents, k)
        self.sizes = [latents // 4, latents // 2, latents]
        for size in self.sizes:
            for active in self.ks:
                self.add(self.topk(size, active), "sizes", size, active)
        grid = [self.order(run.name, BY_SQUARE) for run in self.runs]
        for active in self.ks:
            self.add(self.matryoshka(active), "nested", k=active, nested=True)
        nested = [run for run in self.runs if run.is_nested]
        # A second size lets a fit tell N and G apart.
        self.add(f"matryoshka-{latents // 2}", "nested", latents // 2, nested=True)
        nested.append(self.runs[-1])
        self.laws = {"TopK, reordered by E[z²]": grid, "Matryoshka": nested}
        self.add("matryoshka-layer2", "depth", nested=True, layer=2)
        self.add("topk-layer2", "depth", layer=2)
        self.add("batchtopk", "baselines", objective="batchtopk")
        self.add("jumprelu", "baselines", objective="jumprelu", target_l0=k)
        self.with_loss = {"topk", "matryoshka", "batchtopk", "jumprelu"}
        self.losses_of_prefixes = False
        self.ordered = [self.order("topk-layer2", BY_SQUARE)]
        self.ordered_for_laws = grid


STUDIES: dict[str, type[Comparison | Grid]] = {"comparison": Comparison, "grid": Grid}
