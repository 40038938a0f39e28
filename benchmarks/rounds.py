"""Keeps the best of several rounds, and compares two sides by it."""

from collections.abc import Mapping


def keep_fastest(fastest: dict[str, float], seconds: Mapping[str, float]) -> None:
    for work, value in seconds.items():
        fastest[work] = min(value, fastest.get(work, float("inf")))


def compared(
    ours: Mapping[str, float], theirs: Mapping[str, float], tokens: int
) -> list[dict[str, str | float]]:
    """Tokens a second of both sides from their seconds, for each kind of work."""
    return [
        {
            "work": work,
            "granule_tokens_per_second": tokens / ours[work],
            "torch_tokens_per_second": tokens / theirs[work],
            "ratio": theirs[work] / ours[work],
        }
        for work in ours
    ]
