"""Ticks, scales and labels of the plots."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from line_plot import (
    BOTTOM,
    COLOURS,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    line_plot,
    spaced,
    ticks_along,
    ticks_of,
)

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.9], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ([1, 3.2], [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]),
        ([5], [0, 1, 2, 3, 4, 5]),
        ([4], [0, 1, 2, 3, 4]),
        ([3.9], [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]),
        ([0, 0], [0]),
    ],
)
def test_linear_ticks_are_round_and_cover(values: list[float], expected: list[float]) -> None:
    assert ticks_of(values, False) == pytest.approx(expected)


def test_logarithmic_ticks_are_powers_of_two() -> None:
    assert ticks_of([3, 17], True) == [2, 4, 8, 16, 32]
    assert ticks_of([4, 4], True) == [4]
    assert ticks_of([0.3, 0.3], True) == [0.25, 0.5]


@pytest.mark.parametrize("high", [0.013, 1, 7, 12345.6, 9.99e8])
def test_there_are_few_ticks_and_they_cover(high: float) -> None:
    for ticks in (ticks_of([high / 1000, high], True), ticks_of([high / 1000, high], False)):
        assert 1 < len(ticks) <= 16
        assert ticks == sorted(ticks)
    assert ticks_of([high], False)[-1] >= high


def test_values_are_ticks_if_their_labels_fit() -> None:
    assert ticks_along([16, 1, 4], True) == [1, 4, 16]
    assert ticks_along([1, 1.01, 16], True) == ticks_of([1, 16], True)
    assert ticks_along([7, 7], False) == [7]


@pytest.mark.parametrize("xs", [[0, 1, 10], [5, 5.5, 10], [5, 6, 10]])
def test_labels_fit_a_tenth_of_the_axis_apart(xs: list[float]) -> None:
    assert ticks_along(xs, False) == xs


@pytest.mark.parametrize("xs", [[0, 0.95, 10], [5, 5.4, 10]])
def test_labels_do_not_fit_any_closer(xs: list[float]) -> None:
    assert ticks_along(xs, False) == ticks_of(xs, False)


def test_many_powers_of_two_are_thinned_out() -> None:
    assert ticks_of([1, 2**7], True) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert ticks_of([1, 2**16], True) == [2**e for e in range(0, 17, 2)]


def test_spaced_keeps_what_fits() -> None:
    assert spaced([0, 20, 40], 18, 100) == [0, 20, 40]
    assert spaced([], 18, 100) == []


def test_spaced_moves_apart_and_stays_above_the_last() -> None:
    assert spaced([10, 11, 12], 18, 100) == [10, 28, 46]
    assert spaced([90, 95, 99], 18, 100) == [64, 82, 100]
    moved = spaced(sorted(np.random.default_rng(1).uniform(0, 100, 5)), 18, 100)
    assert np.diff(moved).min() >= 18 - 1e-9
    assert max(moved) <= 100


def test_axis_is_linear_or_logarithmic() -> None:
    values = np.array([2.0, 3.0, 8.0])
    for logarithmic, change in ((False, np.asarray), (True, np.log)):
        axis = Axis(2, 8, 100, 400, logarithmic)
        expected = np.interp(change(values), change(np.array([2.0, 8.0])), [100, 400])
        assert [axis.at(value) for value in values] == pytest.approx(expected)
    assert Axis(5, 5, 100, 400, False).at(5) == 250


def polylines(svg: str) -> list[np.ndarray]:
    root = ET.fromstring(svg)
    return [
        np.array([place.split(",") for place in line.attrib["points"].split()], float)
        for line in root.iter(f"{SVG}polyline")
    ]


def test_points_lie_where_the_axes_put_them() -> None:
    (places,) = polylines(line_plot("t", "s", "x", "y", {"a": [(1, 1), (4, 2), (16, 4)]}))
    # x is logarithmic from 1 to 16; the largest tick of y is 4, in steps of 1.
    assert places[:, 0] == pytest.approx([LEFT, (LEFT + RIGHT) / 2, RIGHT], abs=0.05)
    assert places[:, 1] == pytest.approx(
        [BOTTOM - (BOTTOM - TOP) * y / 4 for y in (1, 2, 4)], abs=0.05
    )


def test_logarithmic_y() -> None:
    (places,) = polylines(
        line_plot("t", "s", "x", "y", {"a": [(1, 1), (2, 4), (4, 16)]}, log_y=True)
    )
    assert places[:, 1] == pytest.approx([BOTTOM, (BOTTOM + TOP) / 2, TOP], abs=0.05)


def test_every_series_is_drawn_and_named() -> None:
    series = {f"series <{i}>": [(1.0, i + 1.0), (2.0, i + 1.0)] for i in range(len(COLOURS) + 1)}
    svg = line_plot("a & b", "s", "x", "y", series)
    assert len(polylines(svg)) == len(series)
    texts = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert set(series) <= set(texts)
    assert texts[0] == "a & b"


def test_labels_follow_the_last_points_from_the_top() -> None:
    svg = line_plot("t", "s", "x", "y", {"low": [(1, 0), (2, 1)], "high": [(1, 5), (2, 9)]})
    labels = re.findall(r'<text x="634" y="([\d.]+)" fill="[^"]+">(\w+)<', svg)
    assert [name for _, name in labels] == ["high", "low"]
    assert float(labels[0][0]) < float(labels[1][0])


def test_one_point_is_drawn_in_the_middle() -> None:
    (places,) = polylines(line_plot("t", "s", "x", "y", {"a": [(3, 5)]}, log_x=False))
    assert places.tolist() == [[(LEFT + RIGHT) / 2, TOP]]
