"""Whether a claim holds, in words and figures."""


# Of two runs that differ by their seed alone, about 3 in 100 are further apart than four times the
# larger of two standard deviations over three seeds each.
SPREADS = 4


def verdict(claim, pairs, higher_is_better=False, factor=1.0, spread=None, notes=None, digits=4):
    """A line of Markdown.

    pairs: {label: (left, right)}; the claim is that left is at least as good as right, or no worse
    than right · factor (right / factor where higher is better). Where `spread`, {label: standard
    deviation over seeds}, is given, a difference within SPREADS times of it decides nothing; where
    it is None the line says that none was measured. notes: {label: (of left, of right)}."""
    pairs = {label: pair for label, pair in pairs.items() if None not in pair}
    if not pairs:
        return f"- {claim}: **not measured yet**."
    counts = {"holds": 0, "within the seeds' spread": 0, "does not hold": 0}
    figures = []
    for label, (left, right) in pairs.items():
        margin = left - right / factor if higher_is_better else right * factor - left
        deviation = (spread or {}).get(label)
        chance = SPREADS * (deviation or 0)
        # Without a spread "at least as good" includes the same.
        word = ("holds" if margin > chance or (margin == 0 == chance) else
                "does not hold" if margin < -chance else "within the seeds' spread")
        counts[word] += 1
        left_note, right_note = [f" ({note})" for note in notes[label]] if notes else ("", "")
        figures.append(f"{label}: {left:.{digits}f}{left_note} against "
                       f"{right:.{digits}f}{right_note}"
                       + (f" (spread {deviation:.{digits}f})" if deviation else
                          "" if spread is None else " (no spread measured)"))
    return f"- {claim}: **{counted(counts, len(pairs))}**. {'; '.join(figures)}."


def counted(counts, total):
    """"holds", or "holds at 2 of 4, does not hold at 2"."""
    found = [(word, count) for word, count in counts.items() if count]
    if len(found) == 1:
        return found[0][0]
    return ", ".join(f"{word} at {count}" + (f" of {total}" if index == 0 else "")
                     for index, (word, count) in enumerate(found))


def within(claim, values, digits=2):
    """As `verdict`; values: {label: (value, lowest, highest)}, the claim that it is between."""
    if not values:
        return f"- {claim}: **not measured yet**."
    held = sum(low <= value <= high for value, low, high in values.values())
    counts = {"holds": held, "does not hold": len(values) - held}
    figures = "; ".join(f"{label}: {value:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"
                        for label, (value, low, high) in values.items())
    return f"- {claim}: **{counted(counts, len(values))}**. {figures}."
