"""docs/results.md and its figures, of what benchmarks/results.py measured."""
import json
import math
import statistics
from pathlib import Path

from line_plot import line_plot
from markdown_page import MarkdownPage
from recaptured_loss import recaptured_loss
from results_plan import BY_FREQUENCY, BY_SQUARE
from verdict import verdict, within

REORDERED = f"topk-by-{BY_SQUARE}"
MAIN = [("matryoshka", "Matryoshka"),
        ("matryoshka-sampled", "Matryoshka, sampled granularities"),
        (f"matryoshka-by-{BY_SQUARE}", "Matryoshka, reordered by E[z²]"),
        (f"matryoshka-sampled-by-{BY_SQUARE}", "Matryoshka, sampled, reordered by E[z²]"),
        (REORDERED, "TopK, reordered by E[z²]"),
        (f"topk-by-{BY_FREQUENCY}", "TopK, reordered by frequency"),
        ("topk", "TopK, unordered")]
# Exponents that the paper found.
POWER_LAWS = {"decoder_covariance_eigenvalues": (-0.72, -0.54),
              "mean_squared_activation": (-1.27, -1.03), "frequency": (-1.20, -1.00)}
RATIO = "cross_entropy_ratio"


class Page(MarkdownPage):
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
        report = self.recaptured(name) if key == RATIO else self.report(name)
        result = {}
        for row in (report or {"rows": []})["rows"]:
            if row["granularity"] not in result or row["sparsity"] == sparsity:
                result[row["granularity"]] = row
        return result

    def at(self, name, granularity, sparsity="fixed-ratio", key="fvu"):
        return self.rows(name, sparsity, key).get(granularity, {}).get(key)

    def scratch(self, granularity, key="fvu"):
        name = "topk" if granularity == self.n else self.plan.scratch[granularity]
        return self.at(name, granularity, key=key)

    def spread(self, granularity, sparsity="fixed-ratio", key="fvu"):
        """Standard deviation over the seeds of N/2 latents at the same share of the dictionary: the
        larger one of Matryoshka's and TopK's; None before there are two."""
        half = granularity // 2
        found = []
        for names in self.plan.seeds.values():
            values = [value for name in names
                      if (value := self.at(name, half, sparsity, key)) is not None]
            if len(values) > 1:
                found.append(statistics.stdev(values))
        return max(found, default=None)

    def excess(self, name, granularity, latents):
        """By how much FVU halfway between two granularities is above the line between them in
        log–log space, as a share: a plateau after the smaller one is above it."""
        before = max(g for g in self.scaled(latents) if g < granularity)
        points = [(g, self.at(name, g)) for g in (before, granularity, 2 * before)]
        if any(not fvu for _, fvu in points):
            return None
        (x0, y0), (x, y), (x1, y1) = [(math.log(g), math.log(fvu)) for g, fvu in points]
        return math.exp(y - y0 - (y1 - y0) * (x - x0) / (x1 - x0)) - 1

    def scaled(self, latents):
        return [g * latents // self.n for g in self.prefixes]

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

    # MARK: The page

    def write(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.introduction()
        self.fixed_ratio()
        self.as_trained()
        self.losses()
        self.say("## RSA at the fixed ratio")
        self.by_granularity(MAIN, "fixed-ratio", shown="rsa")
        self.full_size()
        self.seeds()
        self.weights()
        self.grid()
        self.power_laws()
        self.depth()
        self.claims()
        (self.folder / "results.md").write_text("\n".join(self.lines).rstrip() + "\n")
        print(f"wrote {self.folder}/results.md", flush=True)

    def introduction(self):
        options, manifest = self.work.options, self.work.manifest()
        trained = [run.name for run in self.plan.runs if self.work.is_trained(run.name)]
        report = self.report("matryoshka") or self.report("topk")
        loss = self.recaptured("matryoshka") or self.recaptured("topk")
        files = " and ".join(file.name for file in self.work.held_out_files)
        sizes = "" if (self.n, self.k) == (16384, 64) else f" --latents {self.n} --k {self.k}"
        self.say(
            "# Progressive coding, reproduced",
            "What [Progressive Coding for Sparse Autoencoders](https://arxiv.org/abs/2505.00190) "
            "compares, on a small language model. [evaluation.md](evaluation.md) defines the metrics. "
            + ("[results-distillation.md](results-distillation.md) has what distillation came to. "
               if (self.folder / "results-distillation.md").exists() else "") +
            "Everything here was trained and measured by",
            "```\npython3 benchmarks/results.py --model MODEL.gguf --text FOLDER \\\n"
            f"  --unique-tokens {manifest['tokens_asked'] or manifest['tokens']} "
            f"--tokens {options.tokens} --batch {options.batch} "
            f"--learning-rate {options.learning_rate:g} \\\n"
            f"  --held-out-tokens {options.held_out_tokens} --loss-tokens {options.loss_tokens}{sizes}"
            "\n```",
            f"{Path(manifest['model']['file']).stem}, residual stream before block 10, N = {self.n:,}, "
            f"k = {self.k} at full size. Each dictionary was trained on {options.tokens:,} tokens, "
            f"that is {options.tokens / manifest['tokens']:.1f} passes over {manifest['tokens']:,} "
            f"tokens, the first of {len(manifest['text'])} files in an order that mixes them. Held "
            f"out: {files}. FVU is measured on {report['tokens'] if report else 0:,} tokens of them, "
            f"recaptured loss on {loss['replaced_tokens'] if loss else 0:,} replaced tokens, as many "
            f"of each. Learning rate {options.learning_rate:g} · √({self.n:,} / N), batches of "
            f"{options.batch:,}; seed 0 where none is named.")
        seconds = self.work.ledger.seconds
        harvest = ("harvest " + hours(seconds("harvest")) if options.activations is None else
                   "harvest not measured, it was there already (of the held-out text "
                   + hours(seconds("harvest")) + ")")
        measured = sum(f"runs/{name}" in self.work.ledger.entries for name in trained)
        evaluation = sum(map(seconds, ("ordered/", "evaluations/", "losses/", "grid.json")))
        self.say(f"Wall time: {harvest}; training {hours(seconds('runs/'))} for {measured} of "
                 f"{len(self.plan.runs)} dictionaries; ordering and evaluation {hours(evaluation)}.")
        missing = [run.name for run in self.plan.runs if run.name not in trained]
        if missing:
            self.say("Not trained yet: " + ", ".join(missing) + ".")

    def fixed_ratio(self):
        self.say("## FVU at the fixed ratio k · G / N",
                 "What the paper compares. Trained from scratch: a TopK dictionary of G latents with "
                 "the same k.")
        scratch = {g: fvu for g in self.prefixes if (fvu := self.scratch(g))}
        self.by_granularity(MAIN, "fixed-ratio", further=[
            ["TopK, trained from scratch"] + [cell(scratch.get(g)) for g in self.prefixes]
        ] if scratch else [])
        curves = [("matryoshka", "Matryoshka"), ("matryoshka-sampled", "Matryoshka, sampled"),
                  (REORDERED, "TopK, reordered"), ("topk", "TopK, unordered")]
        series = {label: [(g, row["fvu"]) for g, row in sorted(self.rows(name).items())]
                  for name, label in curves if self.rows(name)}
        if len(scratch) > 1:
            series["TopK from scratch"] = sorted(scratch.items())
        if series:
            self.figure("fixed-ratio", "FVU by granularity, k in proportion",
                        "lower is better; held-out text", "granularity G", "FVU", series)

    def as_trained(self):
        self.say("## FVU as trained",
                 "With the k that each prefix holds in full-width codes, which is what a server "
                 "uses: more active latents at small G. L0 stands below.")
        self.by_granularity(MAIN[:-1], "as-trained")
        self.by_granularity(MAIN[:-1], "as-trained", shown="l0", digits=1)

    def losses(self):
        names = [m for m in MAIN if self.recaptured(m[0])]
        if not names:
            return
        clean = self.recaptured(names[0][0])
        self.say("## Recaptured loss",
                 f"CE(clean) / CE(spliced) in the whole model; the clean cross-entropy is "
                 f"{clean['cross_entropy_clean']:.4f} nats, with the mean in place of each "
                 f"activation {clean['cross_entropy_mean']:.4f}. At the fixed ratio, then as trained:")
        scratch = [self.scratch(g, RATIO) for g in self.prefixes]
        self.by_granularity(names, "fixed-ratio", RATIO, further=[
            ["TopK, trained from scratch", *map(cell, scratch)]] if any(scratch) else [])
        self.by_granularity([m for m in names if m[0] != "topk"], "as-trained", RATIO)

    def full_size(self):
        rows, reached = [], []
        for name in ("topk", "matryoshka", "matryoshka-sampled", "batchtopk", "jumprelu"):
            row = self.rows(name).get(self.n)
            if row is None:
                continue
            in_training = self.trained_l0(name)
            rows.append([name, cell(in_training, 1), cell(row["l0"], 1), cell(row["fvu"]),
                         row["dead_latents"], cell(self.at(name, self.n, key=RATIO))])
            if name in ("batchtopk", "jumprelu"):
                reached.append(f"{name} reached {cell(in_training, 1)} as trained and "
                               f"{row['l0']:.1f} on held-out text")
        self.say("## At full size", "L0 as trained is the mean of the last 100 steps, that of "
                 "held-out text with the thresholds that are served."
                 + (f" Asked for was {self.k}: " + "; ".join(reached) + "." if reached else ""))
        self.table(["dictionary", "L0 as trained", "L0 held out", "FVU", "never active",
                    "CE ratio"], rows)

    def trained_l0(self, name):
        path = self.work.run_folder(name) / "metrics.jsonl"
        values = [line["l0"] for line in map(json.loads, path.read_text().splitlines())
                  if "l0" in line]
        return statistics.mean(values[-100:]) if values else None

    def seeds(self):
        half = self.n // 2
        for key, what in [("fvu", "FVU"), (RATIO, "CE ratio")]:
            rows = []
            for label, names in self.plan.seeds.items():
                found = [self.rows(name, key=key) for name in names if self.rows(name, key=key)]
                if len(found) < 2:
                    continue
                cells = []
                for g in self.scaled(half):
                    values = [f[g][key] for f in found]
                    cells.append(f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}")
                rows.append([f"{label}, {len(found)} seeds"] + cells)
            if rows:
                self.say(f"## Seeds, {what}", f"N = {half:,}, k = {self.k}, {what} at the fixed "
                         "ratio: mean and standard deviation.")
                self.table(["dictionary"] + [f"G = {g:,}" for g in self.scaled(half)], rows)

    def weights(self):
        half = self.n // 2
        names = [(self.plan.seeds["Matryoshka"][0], "Matryoshka, equal weights")]
        names += [(name, f"Matryoshka, the last weight {weight}")
                  for weight, name in self.plan.full_size_weights.items()]
        if not any(self.rows(name) for name, _ in names[1:]):
            return
        names.append((self.plan.seeds["TopK, reordered"][0], "TopK, reordered by E[z²]"))
        smallest = self.scaled(half)[0]
        rows = []
        for name, label in names:
            if found := self.rows(name):
                rows.append([label, cell(self.at(name, smallest, "as-trained", "l0"), 1)]
                            + [cell(found.get(g, {}).get("fvu")) for g in self.scaled(half)])
        self.say("## What nesting costs the full dictionary",
                 f"N = {half:,}, k = {self.k}. Training makes a weighted mean of the losses at each "
                 "granularity small. Here that of the full dictionary weighs more than each of the "
                 f"others, to see what equal weights cost it. L0 is that of the first {smallest:,} "
                 f"latents as trained, of {self.k}; FVU is at the fixed ratio.")
        self.table(["dictionary", f"L0, first {smallest:,}"]
                   + [f"G = {g:,}" for g in self.scaled(half)], rows)
        equal, weighted = names[0][0], self.plan.full_size_weights.items()
        for g, text in [(half, "The weight brings FVU at full size down"),
                        (smallest, f"… and FVU at G {smallest:,} up")]:
            self.lines.append(verdict(
                text, {f"weight {weight}": (self.at(name, g), self.at(equal, g))
                       for weight, name in weighted},
                higher_is_better=g != half,
                spread={f"weight {weight}": self.spread(2 * g) for weight, _ in weighted}))
        self.lines.append("")

    def grid(self):
        series = {f"TopK, N = {n:,}": [(n, self.plan.topk(n, k)) for k in self.plan.ks]
                  for n in self.plan.sizes}
        series[f"Matryoshka, N = {self.n:,}"] = [(self.n, self.plan.matryoshka(k))
                                                 for k in self.plan.ks]
        series = {label: [(row["l0"], row["fvu"]) for n, name in names
                          if (row := self.rows(name).get(n))] for label, names in series.items()}
        if all(len(points) < 2 for points in series.values()):
            return
        series = {label: points for label, points in series.items() if points}
        self.say("## Sparsity and fidelity", "At full size, over k.")
        self.figure("frontier", "Sparsity–fidelity frontier", "lower is better; held-out text",
                    "L0", "FVU", series)
        path = self.work.out / "grid.json"
        report = json.loads(path.read_text()) if path.exists() else {}
        for law in report.get("scaling_laws", []):
            terms = ", ".join(
                f"{t['term']} {t['coefficient']:.3f} ± {t['standard_error'] or 0:.3f}"
                for t in law["terms"] if t["coefficient"] is not None)
            self.say(f"Scaling law, {law['sparsity']}{', with a floor' if law['has_floor'] else ''}, "
                     f"{law['points']} points, R² {law['r_squared']:.4f}: {terms}.")

    def laws(self):
        return {(name, law["of"]): law for name in ("topk", "matryoshka", "matryoshka-sampled")
                for law in (self.report(name) or {}).get("power_laws", [])
                if law["exponent"] is not None}

    def power_laws(self):
        rows = [[f"{name}, {of.replace('_', ' ')}", f"{law['exponent']:.2f}",
                 cell(law["r_squared"], 2)] for (name, of), law in self.laws().items()]
        if rows:
            self.say("## Power laws", "The paper: eigenvalues −0.54 … −0.72, E[z²] −1.03 … −1.27, "
                     "frequency −1.00 … −1.20, over ranks that it does not state; here 1 % to 50 %.")
            self.table(["values", "exponent", "R²"], rows)
        shares = []
        for name, label in MAIN:
            mass = (self.report(name) or {}).get("activation_mass", {}).get("share_of_first", [])
            found = {row["latents"]: row["share"] for row in mass}
            if found:
                shares.append([label] + [cell(found.get(g), 3) for g in self.prefixes])
        if shares:
            self.say("The share of the summed z² that the first G latents hold:")
            self.table(["dictionary"] + [f"G = {g:,}" for g in self.prefixes], shares)

    def depth(self):
        names = [("matryoshka-layer2", "Matryoshka"),
                 (f"topk-layer2-by-{BY_SQUARE}", "TopK, reordered by E[z²]")]
        if any(self.rows(name) for name, _ in names):
            self.say("## Before block 2, the paper's depth", "FVU at the fixed ratio.")
            self.by_granularity(names, "fixed-ratio")

    # MARK: Claims

    def claim(self, text, left, right, granularities, sparsity="fixed-ratio", factor=1.0,
              keys=("fvu", RATIO)):
        """A verdict by FVU and one by recaptured loss; left and right are names, or functions of a
        granularity and a metric."""
        for key in keys:
            def value(side, g):
                return side(g, key) if callable(side) else self.at(side, g, sparsity, key)

            self.lines.append(verdict(
                f"{text}, {'FVU' if key == 'fvu' else 'CE ratio'}",
                {f"G {g:,}": (value(left, g), value(right, g)) for g in granularities},
                higher_is_better=key == RATIO, factor=factor,
                spread={f"G {g:,}": self.spread(g, sparsity, key) for g in granularities}))

    def claims(self):
        has_spread = self.spread(self.prefixes[0]) is not None
        self.say(
            "## The paper's claims",
            "At the fixed ratio, where nothing else is said. A difference decides only where it is "
            f"more than twice the seeds' spread: the standard deviation over seeds at N = "
            f"{self.n // 2:,}, at the same G / N, the larger of the two kinds' ("
            + ("in parentheses" if has_spread else "**not measured yet: every difference decides**")
            + "). One dictionary in two orders differs by less chance than two seeds do, so that for "
            "claims about order this is strict.")
        self.claim("Matryoshka beats reordered TopK at every G below N", "matryoshka", REORDERED,
                   self.below)
        self.claim("… as trained, too", "matryoshka", REORDERED, self.below, "as-trained")
        self.claim("At full size Matryoshka is within 5 % of TopK", "matryoshka", "topk", [self.n],
                   factor=1.05)
        self.claim("Reordered TopK beats unordered", REORDERED, "topk", self.below)
        self.claim("E[z²] is the better order than frequency", REORDERED,
                   f"topk-by-{BY_FREQUENCY}", self.below)
        self.claim("Reordering a Matryoshka dictionary helps", f"matryoshka-by-{BY_SQUARE}",
                   "matryoshka", self.below)
        near = [g for g in self.below if 4 * g >= self.n]
        for name, label in [("matryoshka", "A Matryoshka"), (REORDERED, "A reordered TopK")]:
            self.claim(f"{label} prefix with G/N ≥ 1/4 is within 10 % of a dictionary trained from "
                       "scratch", name, self.scratch, near, factor=1.1)
            gaps = {g: self.at(name, g) / self.scratch(g) for g in self.below
                    if self.at(name, g) and self.scratch(g)}
            pairs = {f"G {b:,} and {a:,}": (gaps[b], gaps[a]) for a, b in zip(gaps, list(gaps)[1:])}
            self.lines.append(verdict("… and less so the smaller G/N, FVU over that from scratch",
                                      pairs))
        self.claim(f"As trained, with the L0 of its own, a Matryoshka prefix with G/N ≥ 1/4 is within "
                   f"10 % of a dictionary trained from scratch with k = {self.k}", "matryoshka",
                   lambda g, key: self.at(self.plan.topk(g, self.k), g, key=key), near, "as-trained",
                   factor=1.1, keys=("fvu",))
        self.claim("Sampled granularities improve the trained ones", "matryoshka-sampled",
                   "matryoshka", self.below)
        self.claim("… and those between them", "matryoshka-sampled", "matryoshka",
                   self.plan.between, keys=("fvu",))
        self.smoothness()
        laws = {}
        for (name, of), law in self.laws().items():
            laws.setdefault(of, {})[name] = (law["exponent"], *POWER_LAWS[of])
        for of in POWER_LAWS:
            self.lines.append(within(f"Power law of {of.replace('_', ' ')}: the exponent is in the "
                                     "paper's range", laws.get(of, {})))
        self.correlation()

    def smoothness(self):
        pairs, spreads = {}, {}
        for g in self.plan.between:
            label = f"G {g:,}"
            pairs[label] = (self.excess("matryoshka-sampled", g, self.n),
                            self.excess("matryoshka", g, self.n))
            values = [self.excess(name, g // 2, self.n // 2)
                      for name in self.plan.seeds["Matryoshka"]]
            values = [value for value in values if value is not None]
            if len(values) > 1:
                spreads[label] = statistics.stdev(values)
        self.lines.append(verdict(
            "Sampling smooths: between two granularities FVU is less above the line through theirs "
            "(log–log, as a share of FVU) than with fixed ones", pairs, spread=spreads))

    def correlation(self):
        """Over dictionaries, granularities and k: each once."""
        points = {}
        for name in sorted(self.plan.with_loss):
            for sparsity in ("fixed-ratio", "as-trained"):
                held_out = self.rows(name, sparsity)
                for g, row in self.rows(name, sparsity, RATIO).items():
                    if g in held_out:
                        points[name, g, held_out[g]["k"]] = (held_out[g]["fvu"], row[RATIO])
        if len(points) > 2:
            fvus, ratios = zip(*points.values())
            self.lines.append(
                f"- FVU and recaptured loss correlate: Pearson's r "
                f"{statistics.correlation(fvus, ratios):.3f}, of ranks "
                f"{statistics.correlation(ranks(fvus), ranks(ratios)):.3f}, over {len(points)} "
                "codes, each of a dictionary, a granularity and a k.")


def cell(value, digits=4):
    return "–" if value is None else f"{value:.{digits}f}"


def ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    return [rank for _, rank in sorted(zip(order, range(len(values))))]


def hours(seconds):
    return f"{seconds / 3600:.2f} h"
