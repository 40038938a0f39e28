"""A small line plot as SVG, for the figures in docs/."""
import html
import math

COLOURS = ["#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#374151", "#be185d", "#0e7490",
           "#a16207"]


def ticks_of(values, logarithmic):
    low, high = min(values), max(values)
    if logarithmic:
        exponents = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
        ticks = [2.0**e for e in exponents]
        return ticks[::max(1, len(ticks) // 8)]
    step = 10 ** math.floor(math.log10(max(high, 1e-9)))
    step = step / 2 if high / step < 4 else step
    return [step * i for i in range(math.ceil(high / step) + 1)]


def spaced(places, distance, last):
    """places, ascending, moved so that they are that far apart and none is beyond last."""
    moved = []
    for place in places:
        moved.append(max(place, moved[-1] + distance) if moved else place)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], last - distance * (len(moved) - 1 - i))
    return moved


def line_plot(title, subtitle, x_label, y_label, series, log_x=True, log_y=False):
    """SVG text. series: {name: [(x, y), …]}, x ascending."""
    left, right, top, bottom = 70, 620, 84, 356
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks = sorted(set(xs))
    along = [math.log(x) for x in x_ticks] if log_x else x_ticks
    # Ten labels fit, at even distances.
    if any(b - a < (along[-1] - along[0]) / 10 for a, b in zip(along, along[1:])):
        x_ticks = ticks_of(xs, log_x)
    y_ticks = ticks_of(ys, log_y)
    x_low, x_high = min(xs + x_ticks), max(xs + x_ticks)
    y_low, y_high = (min(ys + y_ticks) if log_y else 0), max(ys + y_ticks)

    def place(value, low, high, logarithmic):
        if logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low) if high > low else 0.5

    def at(x, y):
        return (left + (right - left) * place(x, x_low, x_high, log_x),
                bottom - (bottom - top) * place(y, y_low, y_high, log_y))

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 420" font-family="system-ui, '
        "-apple-system, 'Segoe UI', sans-serif\" font-size=\"13\" fill=\"#374151\">",
        '<rect width="100%" height="100%" rx="8" fill="#ffffff"/>',
        f'<text x="{left}" y="34" font-size="18" font-weight="600" fill="#111827">'
        f"{html.escape(title)}</text>",
        f'<text x="{left}" y="56" fill="#6b7280">{html.escape(subtitle)}</text>',
        f'<text x="{(left + right) / 2}" y="{bottom + 46}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>",
        f'<text x="{left}" y="{top - 8}" fill="#6b7280">{html.escape(y_label)}</text>']
    for tick in y_ticks:
        _, y = at(x_low, tick)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>'
                     f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#6b7280">'
                     f"{tick:,.4g}</text>")
    for tick in x_ticks:
        x, _ = at(tick, y_low if log_y else 0)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 22}" text-anchor="middle" fill="#6b7280">'
                     f"{tick:,.6g}</text>")
    ordered = sorted(zip(series.items(), COLOURS), key=lambda item: -item[0][1][-1][1])
    label_ys = spaced([at(*points[-1])[1] for (_, points), _ in ordered], 18, bottom)
    for ((name, points), colour), label_y in zip(ordered, label_ys):
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += ['<circle cx="{:.1f}" cy="{:.1f}" r="3.5" fill="{}"/>'.format(*at(x, y), colour)
                  for x, y in points]
        parts.append(f'<text x="{right + 14}" y="{label_y + 4:.1f}" fill="{colour}">'
                     f"{html.escape(name)}</text>")
    return "\n".join(parts + ["</svg>", ""])
