"""The tables of scripts/distill, in Markdown, from the JSON that its commands left.

python3 benchmarks/distillation_tables.py OUT "SEEDS" "KS" """

import json
import os
import sys

folder, seeds, ks = sys.argv[1], sys.argv[2].split(), sys.argv[3].split()


def load(name):
    with open(os.path.join(folder, name)) as file:
        return json.load(file)


def table(titles, rows):
    print("| " + " | ".join(titles) + " |")
    print("| " + " | ".join("---" for _ in titles) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def number(value, digits=4):
    return "–" if value is None else f"{value:.{digits}f}"


def seconds(value):
    return "–" if value is None else f"{value:,.0f}"


for seed in seeds:
    report = load(f"seed-{seed}.json")
    print(f"### Cycles, seed {seed}\n")
    rows = []
    for cycle in report["cycles"]:
        has_core = cycle["core_latents"] > 0
        measured = cycle["granularities"]
        needed = {str(share): count for share, count in cycle["latents_for_coverage"]}
        rows.append([
            cycle["cycle"], cycle["core_latents"], cycle["candidates"], len(cycle["selected"]),
            cycle["kept"], *(needed[share] for share in sorted(needed, key=float)),
            number(measured[0]["fvu"]) if has_core else "–",
            number(measured[1 if has_core else 0]["fvu"]), number(measured[-1]["fvu"]),
            number(measured[0]["l0"], 1) if has_core else "–", number(measured[-1]["l0"], 1),
            seconds(cycle["training_seconds"]), seconds(cycle["attribution_seconds"])])
    shares = [f"for {100 * float(share):g} %"
              for share in sorted((str(s) for s, _ in report["cycles"][0]["latents_for_coverage"]), key=float)]
    table(["cycle", "core", "candidates", "selected", "of the core", *shares, "FVU of the core",
           "innermost FVU", "FVU", "L0 of the core", "L0", "training, s", "attribution, s"], rows)
    counts = report["selections"]
    spread = ", ".join(f"{counts.count(n)} in {n}" for n in sorted(set(counts), reverse=True))
    print(f"The final core has {report['core_latents']} latents; cycles that selected them: {spread}.\n")

print("### Overlap: the largest cosine of encoder vectors\n")
rows = []
cycles = len(load(f"seed-{seeds[0]}.json")["cycles"])
pairs = [(f"overlap-{seeds[0]}-{seed}.json", f"final core of seed {seeds[0]} in that of seed {seed}")
         for seed in seeds[1:]]
pairs += [(f"overlap-cycles-{n - 1}-{n}.json", f"core of cycle {n - 1} in that of cycle {n}")
          for n in range(2, cycles + 1)]
for name, title in pairs:
    overlap = load(name)
    for key, against in [("second", title), ("random_latents", "… as many latents drawn at random"),
                         ("random_directions", "… as many random directions")]:
        figures = overlap[key]
        sizes = "{} in {}".format(*overlap["latents"]) if key == "second" else ""
        rows.append([against, sizes, number(figures["mean_largest_cosine"], 3)] + [
            f"{100 * figures[f'share_at_least_{least}']:.1f} %" for least in ("0.5", "0.7", "0.9")])
table(["", "latents", "mean", "≥ 0.5", "≥ 0.7", "≥ 0.9"], rows)

print("### With and without the core, on the same tokens\n")
rows = []
for k in ks:
    found = {name: load(f"{name}-core-k{k}.json") for name in ("with", "without")}

    def by_granularity(report, part):
        rows = report["rows"] if part is None else report[part]["rows"]
        return {row["granularity"]: row for row in rows if row["sparsity"] == "as-trained"}

    for granularity in by_granularity(found["with"], None):
        row = [k, granularity]
        for name in ("with", "without"):
            held_out = by_granularity(found[name], None)[granularity]
            spliced = by_granularity(found[name], "recaptured")[granularity]
            row += [number(held_out["l0"], 1), number(held_out["fvu"]),
                    number(spliced["loss_recovered_against_mean"])]
        rows.append(row)
table(["k", "granularity", "L0 with", "FVU with", "recovered with", "L0 without", "FVU without",
       "recovered without"], rows)
print("Recovered: 1 − (spliced − clean) / (mean − clean) of the next-token loss, on text; FVU on held-out "
      "activations.")
