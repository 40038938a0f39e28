"""What benchmarks/results.py trains, orders and measures."""
import math
from dataclasses import dataclass, field

BY_SQUARE, BY_FREQUENCY = "mean-squared-activation", "frequency"


def prefixes(latents):
    return [latents // 16, latents // 8, latents // 4, latents // 2, latents]


def between(latents):
    """Halfway from each prefix to the next."""
    return [(a + b) // 2 for a, b in zip(prefixes(latents), prefixes(latents)[1:])]


@dataclass
class Run:
    """A dictionary that is trained: part of the comparison, and what its config.json will say."""
    name: str
    part: str
    latents: int
    k: int
    layer: int = 10
    options: dict = field(default_factory=dict)

    @property
    def is_nested(self):
        return len(self.options["granularities"]) > 1


@dataclass
class Ordered:
    """A dictionary that is a trained one with its latents sorted."""
    name: str
    source: Run
    by: str


class Plan:
    """Sizes in proportion to N latents with k active ones, in the full dictionary."""

    def __init__(self, latents, k):
        self.n, self.k = latents, k
        self.prefixes, self.between = prefixes(latents), between(latents)
        self.ks = [k // 4, k // 2, k, 2 * k]
        self.runs, self.ordered, self.ordered_for_laws = [], [], []
        # Where recaptured loss is measured, too: it takes a pass of the model for each granularity.
        self.with_loss, self.losses_of_prefixes = set(), True
        # What the scaling laws are fitted to: of one kind each, N, G and K all different.
        self.laws = {}

    def add(self, name, part, latents=None, k=None, nested=False, layer=10, **options):
        latents, k = latents or self.n, k or self.k
        options = {"latents": latents, "granularities": prefixes(latents) if nested else [latents],
                   "seed": 0, "objective": "topk", **options}
        if options["objective"] != "jumprelu":
            options["k"] = k
        self.runs.append(Run(name, part, latents, k, layer, options))

    def order(self, name, by):
        source = next(run for run in self.runs if run.name == name)
        return Ordered(f"{name}-by-{by}", source, by)

    def all_ordered(self):
        return [*self.ordered, *self.ordered_for_laws]

    def topk(self, latents, k):
        return "topk" if (latents, k) == (self.n, self.k) else f"topk-{latents}-k{k}"

    def matryoshka(self, k):
        return "matryoshka" if k == self.k else f"matryoshka-k{k}"

    def dictionaries(self):
        """Of everything that is evaluated by itself: name, run, whether its prefixes mean anything."""
        return ([(run.name, run, run.is_nested or run.name == "topk") for run in self.runs]
                + [(ordered.name, ordered.source, True) for ordered in self.ordered])

    def learning_rate(self, run, largest):
        """Not tuned on the held-out text: that of N latents, for others times √(N / latents)."""
        return float(f"{largest * math.sqrt(self.n / run.latents):.6g}")


class Comparison(Plan):
    """Of kinds of dictionaries."""
    # The last is the recaptured loss of those that are compared by it: hours by itself.
    PARTS = ["main", "scratch", "baselines", "seeds", "weights", "losses"]
    UNIQUE_TOKENS, TOKENS = 8_200_000, 16_400_000

    def __init__(self, latents, k):
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
        # What the equal weights of the nested losses cost the full dictionary.
        self.full_size_weights = {4: f"matryoshka-{n // 2}-weight4",
                                  16: f"matryoshka-{n // 2}-weight16"}
        for weight, name in self.full_size_weights.items():
            run(name, "weights", n // 2, nested=True, granularity_weights=[1, 1, 1, 1, weight])

        self.ordered = [self.order("topk", BY_SQUARE), self.order("topk", BY_FREQUENCY),
                        self.order("matryoshka", BY_SQUARE),
                        self.order("matryoshka-sampled", BY_SQUARE)]
        seeds = [self.order(name, BY_SQUARE) for name in topk_seeds]
        # Three seeds of each at half the size: how far apart chance alone sets dictionaries.
        self.seeds = {"Matryoshka": matryoshka_seeds,
                      "TopK, reordered": [ordered.name for ordered in seeds]}
        self.with_loss = {
            "matryoshka", "matryoshka-sampled", "topk", "batchtopk", "jumprelu",
            *self.scratch.values(), *sum(self.seeds.values(), []), *[o.name for o in self.ordered]}
        self.ordered += seeds


class Grid(Plan):
    """Of sizes and k, for what follows from them, and a second depth; on fewer tokens each."""
    PARTS = ["sizes", "nested", "depth", "baselines", "losses"]
    UNIQUE_TOKENS, TOKENS = 4_100_000, 4_100_000

    def __init__(self, latents, k):
        super().__init__(latents, k)
        self.sizes = [latents // 4, latents // 2, latents]
        for size in self.sizes:
            for active in self.ks:
                self.add(self.topk(size, active), "sizes", size, active)
        grid = [self.order(run.name, BY_SQUARE) for run in self.runs]
        for active in self.ks:
            self.add(self.matryoshka(active), "nested", k=active, nested=True)
        nested = [run for run in self.runs if run.is_nested]
        # Of another size, so that N and G can be told apart.
        self.add(f"matryoshka-{latents // 2}", "nested", latents // 2, nested=True)
        nested.append(self.runs[-1])
        self.laws = {"TopK, reordered by E[z²]": grid, "Matryoshka": nested}
        self.add("matryoshka-layer2", "depth", nested=True, layer=2)
        self.add("topk-layer2", "depth", layer=2)
        self.add("batchtopk", "baselines", objective="batchtopk")
        self.add("jumprelu", "baselines", objective="jumprelu", target_l0=k)
        self.with_loss = {"topk", "matryoshka", "batchtopk", "jumprelu"}
        self.losses_of_prefixes = False
        self.ordered, self.ordered_for_laws = [self.order("topk-layer2", BY_SQUARE)], grid


STUDIES = {"comparison": Comparison, "grid": Grid}
