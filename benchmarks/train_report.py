"""What benchmarks/train.py makes of its measurements."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Fields of the fastest step of each side, by the side's name; "ms" is one of them.
Least = dict[str, dict[str, Any]]


def default_widths(latents: int) -> list[int]:
    """N/16, N/4, N/2, N, without those below 1."""
    return [latents // share for share in (16, 4, 2, 1) if latents >= share]


def evenly_spaced(count: int, latents: int) -> list[int]:
    """`count` different latents, spread over all."""
    return [number * latents // count for number in range(count)]


def keep_least(least: Least, name: str, row: Mapping[str, Any]) -> None:
    """Other work on the machine only adds to a time, so the least one counts."""
    if name not in least or row["ms"] < least[name]["ms"]:
        least[name] = dict(row)


def ms_a_step(one_step: float, more_steps: float, steps: int) -> float:
    """Milliseconds of a step, from the seconds of a run of one and of a run of `steps` more."""
    return 1000 * (more_steps - one_step) / steps


def ratio(least: Least, name: str) -> float:
    """A side's time over that of Granule's step with the same granularities."""
    ours = least["granule-nested" if "matryoshka" in name else "granule"]["ms"]
    return float(least[name]["ms"] / ours)


def table(least: Least) -> str:
    lines = [f"{'':22} {'ms a step':>10} {'× granule':>10}"]
    for name, row in least.items():
        lines.append(f"{name:22} {row['ms']:10.1f} {ratio(least, name):10.2f}")
    return "\n".join(lines)


def relative_difference(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / theirs


def largest_difference(pairs: Iterable[Sequence[float]]) -> float:
    """The largest relative difference of (ours, theirs); 0 if nothing was compared, and NaN if a
    loss is NaN, so that a divergence is never below a tolerance."""
    worst = 0.0
    for ours, theirs in pairs:
        difference = relative_difference(ours, theirs)
        if difference > worst or difference != difference:
            worst = difference
        if worst != worst:
            break
    return worst
