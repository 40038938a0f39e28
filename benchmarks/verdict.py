"""Whether a claim holds, in words and figures."""

import math
from collections.abc import Mapping

# Of two runs that differ in nothing but their seed, about 3 in 100 are further apart than four
# times the larger of two standard deviations, each over three seeds.
SPREADS = 4

HOLDS, UNDECIDED, FAILS = "holds", "within the seeds' spread", "does not hold"

Measured = float | None


def verdict(
    claim: str,
    pairs: Mapping[str, tuple[Measured, Measured]],
    higher_is_better: bool = False,
    factor: float = 1.0,
    spread: Mapping[str, Measured] | None = None,
    notes: Mapping[str, tuple[str, str]] | None = None,
    digits: int = 4,
) -> str:
    """One line of Markdown with the verdict and the figures that it rests on.

    pairs: {label: (left, right)}. The claim is that left is at least as good as right, or no worse
    than right · factor (right / factor if higher is better). A pair with a value that is None or
    NaN was not measured and is left out.
    spread: {label: standard deviation over seeds}. A difference within SPREADS times that decides
    nothing. If a label has none, the line says so.
    notes: {label: (note on left, note on right)}."""
    measured = {
        label: (left, right)
        for label, (left, right) in pairs.items()
        if left is not None and right is not None and not math.isnan(left - right)
    }
    if not measured:
        return f"- {claim}: **not measured yet**."
    counts = {HOLDS: 0, UNDECIDED: 0, FAILS: 0}
    figures = []
    for label, (left, right) in measured.items():
        margin = left - right / factor if higher_is_better else right * factor - left
        deviation = (spread or {}).get(label)
        counts[word(margin, SPREADS * (deviation or 0))] += 1
        left_note, right_note = (f" ({note})" for note in notes[label]) if notes else ("", "")
        figures.append(
            f"{label}: {left:.{digits}f}{left_note} against {right:.{digits}f}{right_note}"
            + (
                f" (spread {deviation:.{digits}f})"
                if deviation
                else ""
                if spread is None
                else " (no spread measured)"
            )
        )
    return f"- {claim}: **{counted(counts, len(measured))}**. {'; '.join(figures)}."


def word(margin: float, chance: float) -> str:
    """The verdict on one pair whose left side is better by `margin`, if a difference of up to
    `chance` decides nothing. Without a chance "at least as good" includes "equal"."""
    if margin > chance or (margin == 0 and chance == 0):
        return HOLDS
    return FAILS if margin < -chance else UNDECIDED


def counted(counts: Mapping[str, int], total: int) -> str:
    """ "holds", or "holds at 2 of 4, does not hold at 2"."""
    found = [(word, count) for word, count in counts.items() if count]
    if len(found) == 1:
        return found[0][0]
    return ", ".join(
        f"{word} at {count}" + (f" of {total}" if index == 0 else "")
        for index, (word, count) in enumerate(found)
    )


def within(claim: str, values: Mapping[str, tuple[float, float, float]], digits: int = 2) -> str:
    """One line of Markdown, as `verdict` writes it.

    values: {label: (value, lowest, highest)}. The claim is that the value lies between the two."""
    if not values:
        return f"- {claim}: **not measured yet**."
    held = sum(low <= value <= high for value, low, high in values.values())
    counts = {HOLDS: held, FAILS: len(values) - held}
    figures = "; ".join(
        f"{label}: {value:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"
        for label, (value, low, high) in values.items()
    )
    return f"- {claim}: **{counted(counts, len(values))}**. {figures}."
