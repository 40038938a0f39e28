"""The page of scripts/distill, results-distillation.md and its figures, from the JSON that its
commands left.

    python3 benchmarks/distillation_tables.py OUT PAGE "SEEDS" "KS"
"""
import json
import sys
from pathlib import Path

from line_plot import line_plot
from markdown_page import MarkdownPage
from recaptured_loss import recaptured_loss
from verdict import counted, verdict

# What the verdicts call stable, and well above chance.
STABLE, ABOVE = 0.1, 2.0
RECOVERED = "loss_recovered_against_mean"


class Page(MarkdownPage):
    def __init__(self, out, page, seeds, ks):
        super().__init__()
        self.out, self.page, self.seeds, self.ks = out, page, seeds, ks
        self.reports = {seed: self.load(f"seed-{seed}.json") for seed in seeds}

    def load(self, name):
        return json.loads((self.out / name).read_text())

    def write(self):
        self.introduction()
        for seed in self.seeds:
            self.cycles(seed)
        self.overlap()
        self.comparison()
        self.claims()
        path = self.page / "results-distillation.md"
        path.write_text("\n".join(self.lines).rstrip() + "\n")
        print(f"wrote {path}")

    def introduction(self):
        settings = (self.out / "settings").read_text().splitlines()
        values = " ".join(f"'{line}'" if " " in line else line for line in settings if "=" in line)
        files = " and ".join(Path(line.removeprefix("held out ")).name for line in settings
                             if line.startswith("held out "))
        harvest = Path(next(line.removeprefix("activations ") for line in settings
                            if line.startswith("activations ")))
        manifest = json.loads((harvest / "manifest.json").read_text())
        attributed = self.reports[self.seeds[0]]["cycles"][0]["attributed_tokens"]
        fvu_tokens = self.load(f"without-core-k{self.ks[0]}.json")["tokens"]
        replaced = self.recaptured(f"without-core-k{self.ks[0]}")["replaced_tokens"]
        self.say(
            "# Distillation, reproduced",
            "What the pipeline of [distillation.md](distillation.md) came to. What the dictionaries "
            "themselves are worth is in [results.md](results.md). Made by",
            f"```\n{values} \\\n  HARVEST_TOKENS={manifest['tokens_asked'] or manifest['tokens']} "
            f"SEEDS='{' '.join(self.seeds)}' "
            f"OTHER_KS='{' '.join(self.ks[1:])}' scripts/distill\n```",
            f"on {Path(manifest['model']['file']).stem}, {manifest['tokens']:,} tokens, the first of "
            f"{len(manifest['text'])} files in an order that mixes them; in each cycle {attributed:,} "
            f"tokens of those files are attributed. Held out from both: {files}. FVU with and without "
            f"the core is measured on {fvu_tokens:,} tokens of them, recaptured loss on {replaced:,} "
            "replaced tokens, as many of each.")

    def cycles(self, seed):
        report = self.reports[seed]
        self.say(f"## Cycles, seed {seed}")
        shares = [share for share, _ in report["cycles"][0]["latents_for_coverage"]]
        rows = []
        for cycle in report["cycles"]:
            has_core = cycle["core_latents"] > 0
            measured = cycle["granularities"]
            floored = cycle["floored_share"]
            rows.append([
                cycle["cycle"], cycle["core_latents"], cycle["candidates"], len(cycle["selected"]),
                cycle["kept"], *(count for _, count in cycle["latents_for_coverage"]),
                number(measured[0]["fvu"]) if has_core else "–",
                number(measured[1 if has_core else 0]["fvu"]), number(measured[-1]["fvu"]),
                number(measured[0]["l0"], 1) if has_core else "–", number(measured[-1]["l0"], 1),
                "–" if floored is None else f"{100 * floored:.0f} %",
                seconds(cycle["training_seconds"]), seconds(cycle["attribution_seconds"])])
        self.table(
            ["cycle", "core", "candidates", "selected", "of the core",
             *(f"for {100 * share:g} %" for share in shares), "FVU of the core", "innermost FVU",
             "FVU", "L0 of the core", "L0", "floored", "training, s", "attribution, s"], rows)
        counts = report["selections"]
        spread = ", ".join(f"{counts.count(n)} in {n}" for n in sorted(set(counts), reverse=True))
        self.say(f"The final core has {report['core_latents']} latents; cycles that selected them: "
                 f"{spread}. FVU and L0 here are on sequences of the harvest that training left out. "
                 "Floored: the share of steps in which the core alone had more than three quarters "
                 "of k active latents, so that L0 is above k; a dash where a cycle was interrupted.")
        name = f"results-distillation-coverage-{seed}.svg"
        title = f"Attribution explained by the fewest latents, seed {seed}"
        (self.page / name).write_text(line_plot(
            title, "of the innermost granularity, the highest scores first", "latents", "share of attribution",
            {f"cycle {cycle['cycle']}": [(0, 0)] + [(count, share) for share, count in
                                                   cycle["latents_for_coverage"]]
             for cycle in report["cycles"]}, log_x=False))
        self.say(f"![{title}]({name})")

    def pairs_of_seeds(self):
        return [(f"overlap-{self.seeds[0]}-{seed}.json", seed) for seed in self.seeds[1:]]

    def overlap(self):
        pairs = [(name, f"final core of seed {self.seeds[0]} in that of seed {seed}")
                 for name, seed in self.pairs_of_seeds()]
        cycles = len(self.reports[self.seeds[0]]["cycles"])
        pairs += [(f"overlap-cycles-{n - 1}-{n}.json", f"core of cycle {n - 1} in that of cycle {n}")
                  for n in range(2, cycles + 1)]
        rows = []
        for name, title in pairs:
            overlap = self.load(name)
            for key, against in [("second", title),
                                 ("random_latents", "… as many latents drawn at random"),
                                 ("random_directions", "… as many random directions")]:
                figures = overlap[key]
                sizes = "{} in {}".format(*overlap["latents"]) if key == "second" else ""
                rows.append([against, sizes, number(figures["mean_largest_cosine"], 3)] + [
                    f"{100 * figures[f'share_at_least_{least}']:.1f} %"
                    for least in ("0.5", "0.7", "0.9")])
        self.say("## Overlap: the largest cosine of encoder vectors")
        self.table(["", "latents", "mean", "≥ 0.5", "≥ 0.7", "≥ 0.9"], rows)

    def recaptured(self, name):
        return recaptured_loss(sorted((self.out / "losses" / name).glob("*.json")))

    def measured(self, k):
        """[granularity: [with or without: row]] as trained."""
        found = {}
        for which in ("with", "without"):
            name = f"{which}-core-k{k}"
            losses = as_trained(self.recaptured(name)["rows"])
            for granularity, row in as_trained(self.load(f"{name}.json")["rows"]).items():
                found.setdefault(granularity, {})[which] = {
                    **row, RECOVERED: losses[granularity][RECOVERED]}
        return {g: rows for g, rows in found.items() if len(rows) == 2}

    def comparison(self):
        rows = []
        for k in self.ks:
            for granularity, pair in self.measured(k).items():
                rows.append([k, f"{granularity:,}"] + [
                    cell for which in ("with", "without") for cell in (
                        number(pair[which]["l0"], 1), number(pair[which]["fvu"]),
                        number(pair[which][RECOVERED]))])
        self.say("## With and without the core, on the same tokens")
        self.table(["k", "granularity", "L0 with", "FVU with", "recovered with", "L0 without",
                    "FVU without", "recovered without"], rows)
        self.say("Recovered: 1 − (spliced − clean) / (mean − clean) of the next-token loss. All on "
                 "the held-out text.")

    # MARK: Claims

    def claims(self):
        self.say("## The paper's claims",
                 "Of what was tested; SAEBench, its headline, was not. There is one pair of "
                 "dictionaries at each k, so that how much of a difference is chance is not known.")
        self.stability()
        self.overlap_above_chance()
        self.better(self.ks[0], "With the core at least as good as without")
        for k in self.ks[1:]:
            self.better(k, f"The core transfers to k = {k}: at least as good as without")

    def stability(self):
        counts, figures = {"holds": 0, "does not hold": 0}, []
        for seed, report in self.reports.items():
            sizes = [len(cycle["selected"]) for cycle in report["cycles"]]
            if len(sizes) < 2:
                continue
            change = sizes[-1] / sizes[-2] - 1
            counts["holds" if abs(change) <= STABLE else "does not hold"] += 1
            figures.append(f"seed {seed}: {' → '.join(map(str, sizes))}, last {100 * change:+.0f} %")
        word = counted(counts, sum(counts.values())) if figures else "not measured"
        self.lines.append("- The core's size settles over the cycles (the last cycle changes it by at "
                          f"most {100 * STABLE:.0f} %), by seed: **{word}**. {'; '.join(figures)}.")

    def overlap_above_chance(self):
        for key, what in [("mean_largest_cosine", "mean largest cosine"),
                          ("share_at_least_0.7", "share at 0.7 or above")]:
            pairs = {}
            for name, seed in self.pairs_of_seeds():
                overlap = self.load(name)
                pairs[f"seeds {self.seeds[0]} and {seed}"] = (
                    overlap["second"][key], ABOVE * overlap["random_latents"][key])
            # Nothing found is not above a chance of nothing.
            pairs = {label: (a, b if a > 0 else max(b, 1e-9)) for label, (a, b) in pairs.items()}
            self.lines.append(verdict(
                f"Seeds find the same core: {what} at least {ABOVE:g} times that of latents drawn at "
                "random (which stands after \"against\", doubled)", pairs, higher_is_better=True,
                digits=3))

    def better(self, k, claim):
        measured = self.measured(k)
        for key, what, higher in [("fvu", "FVU", False), (RECOVERED, "loss recovered", True)]:
            self.lines.append(verdict(
                f"{claim}, {what}, k = {k}",
                {f"G {g:,}": (rows["with"][key], rows["without"][key])
                 for g, rows in measured.items()}, higher_is_better=higher))
        denser = [g for g, rows in measured.items()
                  if rows["with"]["l0"] > 1.1 * rows["without"]["l0"]]
        if denser:
            self.lines.append(
                f"  - Not at the same sparsity: with the core L0 is more than a tenth larger at "
                f"{len(denser)} of {len(measured)} granularities (at the last one "
                f"{measured[max(measured)]['with']['l0']:.1f} against "
                f"{measured[max(measured)]['without']['l0']:.1f}).")


def as_trained(rows):
    return {row["granularity"]: row for row in rows if row["sparsity"] == "as-trained"}


def number(value, digits=4):
    return "–" if value is None else f"{value:.{digits}f}"


def seconds(value):
    return "–" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    out, page, seeds, ks = sys.argv[1:]
    Page(Path(out), Path(page), seeds.split(), ks.split()).write()
