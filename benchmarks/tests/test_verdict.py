"""Verdicts on claims: words at every edge, and the figures beside them."""

import math

import pytest

from verdict import FAILS, HOLDS, UNDECIDED, counted, verdict, within, word


@pytest.mark.parametrize(
    ("margin", "chance", "expected"),
    [
        (0.1, 0, HOLDS),
        (0, 0, HOLDS),  # without a spread "at least as good" includes equal
        (-1e-12, 0, FAILS),
        (0.3, 0.2, HOLDS),
        (0.2, 0.2, UNDECIDED),
        (0, 0.2, UNDECIDED),
        (-0.2, 0.2, UNDECIDED),
        (-0.3, 0.2, FAILS),
    ],
)
def test_word(margin: float, chance: float, expected: str) -> None:
    assert word(margin, chance) == expected


def test_lower_is_better() -> None:
    line = verdict("c", {"a": (0.25, 0.5)})
    assert line == "- c: **holds**. a: 0.2500 against 0.5000."
    assert "**does not hold**" in verdict("c", {"a": (0.5, 0.25)})


def test_higher_is_better() -> None:
    assert "**holds**" in verdict("c", {"a": (0.5, 0.25)}, higher_is_better=True)
    assert "**does not hold**" in verdict("c", {"a": (0.25, 0.5)}, higher_is_better=True)


@pytest.mark.parametrize(("left", "expected"), [(1.25, HOLDS), (1.26, FAILS)])
def test_factor_allows_that_much_more(left: float, expected: str) -> None:
    assert f"**{expected}**" in verdict("c", {"a": (left, 1.0)}, factor=1.25)


@pytest.mark.parametrize(("left", "expected"), [(0.8, HOLDS), (0.79, FAILS)])
def test_factor_allows_that_much_less(left: float, expected: str) -> None:
    line = verdict("c", {"a": (left, 1.0)}, higher_is_better=True, factor=1.25)
    assert f"**{expected}**" in line


def test_spread_decides_within_four_deviations() -> None:
    def of(left: float) -> str:
        return verdict("c", {"a": (left, 1.0)}, spread={"a": 0.125}, digits=3)

    assert of(0.49) == "- c: **holds**. a: 0.490 against 1.000 (spread 0.125)."
    assert "**within the seeds' spread**" in of(0.5)
    assert "**within the seeds' spread**" in of(1.5)
    assert "**does not hold**" in of(1.51)


@pytest.mark.parametrize("spread", [{}, {"a": None}, {"a": 0.0}])
def test_a_missing_spread_is_named(spread: dict[str, float | None]) -> None:
    line = verdict("c", {"a": (0.9, 1.0)}, spread=spread)
    assert line == "- c: **holds**. a: 0.9000 against 1.0000 (no spread measured)."


def test_notes_stand_beside_their_figures() -> None:
    line = verdict("c", {"a": (1, 2)}, notes={"a": ("L0 3", "L0 4")}, digits=1)
    assert line == "- c: **holds**. a: 1.0 (L0 3) against 2.0 (L0 4)."


def test_several_pairs_are_counted() -> None:
    pairs = {"a": (1.0, 2.0), "b": (2.0, 1.0), "c": (3.0, 1.0), "d": (1.0, 1.0)}
    assert "**holds at 2 of 4, does not hold at 2**" in verdict("c", pairs)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_what_is_not_measured_is_left_out(missing: float | None) -> None:
    assert verdict("c", {"a": (missing, 1.0)}) == "- c: **not measured yet**."
    line = verdict("c", {"a": (1.0, missing), "b": (1.0, 2.0)})
    assert line == "- c: **holds**. b: 1.0000 against 2.0000."


def test_nothing_is_not_measured_yet() -> None:
    assert verdict("c", {}) == "- c: **not measured yet**."
    assert within("c", {}) == "- c: **not measured yet**."


def test_counted() -> None:
    assert counted({"x": 3, "y": 0}, 3) == "x"
    assert counted({"x": 1, "y": 0, "z": 2}, 3) == "x at 1 of 3, z at 2"


def test_within_includes_both_ends() -> None:
    values = {"low": (1.0, 1.0, 2.0), "high": (2.0, 1.0, 2.0)}
    assert within("c", values) == (
        "- c: **holds**. low: 1.00 (1.00 … 2.00); high: 2.00 (1.00 … 2.00)."
    )
    outside = {"below": (0.99, 1.0, 2.0), "above": (2.01, 1.0, 2.0), "nan": (math.nan, 1.0, 2.0)}
    assert "**does not hold**" in within("c", outside)
    assert "**holds at 1 of 2, does not hold at 1**" in within(
        "c", {"in": (1.5, 1, 2), "out": (3, 1, 2)}
    )
