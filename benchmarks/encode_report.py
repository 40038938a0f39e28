"""What benchmarks/encode.py makes of its measurements: rows, ratios and a figure."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from line_plot import Point, line_plot
from machine import cpu_name

# (tokens a call, granularity)
Key = tuple[int, int]
Row = dict[str, Any]
Shape = tuple[int, int, int]


def block_sizes(batch: int) -> list[int]:
    """Tokens that PyTorch encodes at once: all of them, and blocks as the sgemm baseline has them.
    The faster one counts."""
    return sorted({batch, min(batch, 256)})


def sums_agree(ours: float, theirs: float) -> bool:
    """Whether two sums of the same active values differ by rounding alone."""
    return abs(theirs - ours) <= 1e-5 * abs(theirs) + 1e-3


def compared(
    shape: Shape,
    checked: Mapping[Key, Row],
    ours: Mapping[Key, Sequence[Row]],
    theirs: Mapping[tuple[int, int, int], Sequence[float]],
) -> list[Row]:
    """One row for each batch and granularity, with the best round of each side.

    checked: rows of the run whose codes were compared; ours: rows of each round; theirs: median
    seconds of each round of PyTorch, by (batch, granularity, block size)."""
    d_model, latents, _ = shape
    result = []
    for (batch, granularity), rows in ours.items():
        ms = min(row["ms"] for row in rows)
        sgemm_ms = min(row["sgemm_ms"] for row in rows)
        torch_ms = 1000 * min(min(theirs[batch, granularity, size]) for size in block_sizes(batch))
        facts = checked[batch, granularity]
        result.append(
            {
                "d_model": d_model,
                "latents": latents,
                "batch": batch,
                "granularity": granularity,
                "k": facts["k"],
                "ms": ms,
                "sgemm_ms": sgemm_ms,
                "torch_ms": torch_ms,
                "speedup_sgemm": sgemm_ms / ms,
                "speedup_torch": torch_ms / ms,
                "survivors_per_token": facts["survivors_per_token"],
                "fallbacks": facts["fallbacks"],
                "tokens_that_differ": facts["tokens_that_differ"],
            }
        )
    return result


def is_by_granularity(rows: Iterable[Row]) -> bool:
    """Whether the rows vary the granularity, so that a figure shows that instead of the batch."""
    return len({row["granularity"] / row["latents"] for row in rows}) > 1


def series(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """Ratios of each peer and shape, over the batch or over the share of the latents."""
    by_granularity = is_by_granularity(rows)
    found: dict[str, list[Point]] = {}
    for row in rows:
        shape = f"{row['d_model']} × {row['latents']}"
        x = row["granularity"] / row["latents"] if by_granularity else row["batch"]
        for peer, name in (("sgemm", "sgemm + top-k"), ("torch", "PyTorch")):
            found.setdefault(f"{name}, {shape}", []).append((x, row[f"speedup_{peer}"]))
    return {name: sorted(points) for name, points in found.items()}


def figure(rows: Sequence[Row], threads: int) -> str:
    """The ratios as SVG."""
    return line_plot(
        "Encoding: times as fast as",
        f"{cpu_name()}, {threads} threads",
        "granularity, as a share of the latents" if is_by_granularity(rows) else "tokens a call",
        "their time / Granule's",
        series(rows),
    )


def table(rows: Iterable[Row]) -> str:
    lines = [
        f"{'d_model':>7} {'latents':>7} {'batch':>6} {'G':>6} {'k':>4} {'Granule ms':>11} "
        f"{'sgemm ms':>9} {'PyTorch ms':>11} {'× sgemm':>8} {'× PyTorch':>10} {'survivors':>9}"
    ]
    for row in rows:
        survivors = row["survivors_per_token"]
        lines.append(
            f"{row['d_model']:7} {row['latents']:7} {row['batch']:6} {row['granularity']:6} "
            f"{row['k']:4} {row['ms']:11.3f} {row['sgemm_ms']:9.3f} {row['torch_ms']:11.3f} "
            f"{row['speedup_sgemm']:8.2f} {row['speedup_torch']:10.2f} "
            f"{'all' if survivors is None else format(survivors, '9.1f'):>9}"
        )
    return "\n".join(lines)


def shapes(text: str) -> list[Shape]:
    """Parses D_MODEL:LATENTS:K,… for argparse."""
    result = []
    for shape in text.split(","):
        parts = [int(number) for number in shape.split(":")]
        if len(parts) != 3:
            raise argparse.ArgumentTypeError("shapes are D_MODEL:LATENTS:K, with commas between")
        result.append((parts[0], parts[1], parts[2]))
    return result


def numbers(text: str) -> list[int]:
    """Parses numbers with commas between; ascending, each once."""
    return sorted({int(number) for number in text.split(",")})
