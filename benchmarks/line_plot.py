"""A small line plot as SVG, for the figures in docs/."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

COLOURS = [
    "#1d4ed8",
    "#c2410c",
    "#15803d",
    "#7e22ce",
    "#374151",
    "#be185d",
    "#0e7490",
    "#a16207",
]
LEFT, RIGHT, TOP, BOTTOM = 70, 620, 84, 356

Point = tuple[float, float]


def ticks_of(values: Sequence[float], logarithmic: bool) -> list[float]:
    """About four to nine round numbers that cover the values: powers of two on a logarithmic axis,
    otherwise multiples of a step, from 0 on."""
    low, high = min(values), max(values)
    if logarithmic:
        exponents = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
        ticks = [2.0**e for e in exponents]
        return ticks[:: max(1, len(ticks) // 8)]
    step = 10.0 ** math.floor(math.log10(max(high, 1e-9)))
    step = step / 2 if high / step < 4 else step
    return [step * i for i in range(math.ceil(high / step) + 1)]


def ticks_along(xs: Sequence[float], logarithmic: bool) -> list[float]:
    """The values themselves if their labels fit, which takes a tenth of the axis between any two of
    them; otherwise the ticks of `ticks_of`."""
    ticks = sorted(set(xs))
    along = [math.log(x) for x in ticks] if logarithmic else ticks
    if any(b - a < (along[-1] - along[0]) / 10 for a, b in pairwise(along)):
        return ticks_of(xs, logarithmic)
    return ticks


def spaced(places: Sequence[float], distance: float, last: float) -> list[float]:
    """places, ascending, moved so that neighbours are at least `distance` apart and none is beyond
    `last`."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + distance) if moved else place)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], last - distance * (len(moved) - 1 - i))
    return moved


@dataclass
class Axis:
    """Maps values to pixels: `low` lies at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * self.share(value)

    def share(self, value: float) -> float:
        """How far along the axis, from 0 to 1; the middle if all values are one."""
        if self.high <= self.low:
            return 0.5
        if self.logarithmic:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)


def line_plot(
    title: str,
    subtitle: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[Point]],
    log_x: bool = True,
    log_y: bool = False,
) -> str:
    """The text of an SVG file.

    series: {name: [(x, y), …]}, x ascending, at least one point each."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks, y_ticks = ticks_along(xs, log_x), ticks_of(ys, log_y)
    x_axis = Axis(min(xs + x_ticks), max(xs + x_ticks), LEFT, RIGHT, log_x)
    y_axis = Axis(min(ys + y_ticks) if log_y else 0, max(ys + y_ticks), BOTTOM, TOP, log_y)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 420" font-family="system-ui, '
        '-apple-system, \'Segoe UI\', sans-serif" font-size="13" fill="#374151">',
        '<rect width="100%" height="100%" rx="8" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="34" font-size="18" font-weight="600" fill="#111827">'
        f"{html.escape(title)}</text>",
        f'<text x="{LEFT}" y="56" fill="#6b7280">{html.escape(subtitle)}</text>',
        f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 46}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>",
        f'<text x="{LEFT}" y="{TOP - 8}" fill="#6b7280">{html.escape(y_label)}</text>',
    ]
    for tick in y_ticks:
        y = y_axis.at(tick)
        parts.append(
            f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#6b7280">'
            f"{tick:,.4g}</text>"
        )
    for tick in x_ticks:
        parts.append(
            f'<text x="{x_axis.at(tick):.1f}" y="{BOTTOM + 22}" text-anchor="middle" '
            f'fill="#6b7280">{tick:,.6g}</text>'
        )
    # The label of each line stands beside its last point; the highest line comes first.
    coloured = zip(series.items(), cycle(COLOURS), strict=False)
    ordered = sorted(coloured, key=lambda item: -item[0][1][-1][1])
    label_ys = spaced([y_axis.at(points[-1][1]) for (_, points), _ in ordered], 18, BOTTOM)
    for ((name, points), colour), label_y in zip(ordered, label_ys, strict=True):
        parts += line(name, [(x_axis.at(x), y_axis.at(y)) for x, y in points], colour, label_y)
    return "\n".join([*parts, "</svg>", ""])


def line(name: str, places: Sequence[Point], colour: str, label_y: float) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places),
        f'<text x="{RIGHT + 14}" y="{label_y + 4:.1f}" fill="{colour}">{html.escape(name)}</text>',
    ]
