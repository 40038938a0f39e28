"""What scripts/distill reads from its files and derives from its options.

python3 benchmarks/distillation_record.py report SEED.json         the report to keep in the record
python3 benchmarks/distillation_record.py core-latents SEED.json   latents of the final core
python3 benchmarks/distillation_record.py floored METRICS.jsonl    share of steps that were floored
python3 benchmarks/distillation_record.py innermost WIDTHS LATENTS granularities of a dictionary
                                             without a core, the first as large as a core
python3 benchmarks/distillation_record.py widened WIDTHS LATENTS   granularities that have a core of
                                             that many latents in front
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def portable(report: dict[str, Any]) -> dict[str, Any]:
    """The report without the core's path, which only this machine has."""
    return {key: value for key, value in report.items() if key != "core"}


def floored_share(lines: Iterable[str]) -> float:
    """The share of steps in which the core alone had too many active latents. A step that was
    repeated after an interruption counts once, as it was last.

    Raises ValueError if no step says it."""
    steps: dict[int, bool] = {}
    for line in map(json.loads, lines):
        if "core_exceeds_k" in line:
            steps[line["step"]] = line["core_exceeds_k"]
    if not steps:
        raise ValueError("no step says whether the core exceeded k: it was trained without a core")
    return sum(steps.values()) / len(steps)


def innermost(widths: Sequence[int], latents: int) -> list[int]:
    """The widths with a first one of that many latents, without those that are not larger."""
    return [latents, *(g for g in widths[1:] if g > latents)]


def widened(widths: Sequence[int], core: int) -> list[int]:
    """Every width but the last with the core added, if it stays below the last."""
    return [*(g + core for g in widths[:-1] if g + core < widths[-1]), widths[-1]]


def main(what: str, source: str, latents: str = "0") -> None:
    if what in ("innermost", "widened"):
        widths = [int(width) for width in source.split(",")]
        found = (innermost if what == "innermost" else widened)(widths, int(latents))
        print(",".join(map(str, found)))
    elif what == "floored":
        with open(source) as lines:
            print(floored_share(lines))
    else:
        report = json.loads(Path(source).read_text())
        core_only = what == "core-latents"
        print(report["core_latents"] if core_only else json.dumps(portable(report), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
