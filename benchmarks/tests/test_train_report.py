"""The arithmetic of benchmarks/train.py."""

import math

import numpy as np
import pytest

from train_report import (
    Least,
    default_widths,
    evenly_spaced,
    keep_least,
    largest_difference,
    ms_a_step,
    ratio,
    relative_difference,
    table,
)


def test_default_widths() -> None:
    assert default_widths(16384) == [1024, 4096, 8192, 16384]
    assert default_widths(3) == [1, 3]
    assert default_widths(1) == [1]


@pytest.mark.parametrize(("count", "latents"), [(0, 10), (1, 10), (3, 10), (10, 10), (7, 100)])
def test_evenly_spaced_latents_differ(count: int, latents: int) -> None:
    found = evenly_spaced(count, latents)
    assert len(set(found)) == count
    assert all(0 <= latent < latents for latent in found)
    if count > 1:
        steps = np.diff(found)
        assert steps.max() - steps.min() <= 1


def test_the_least_time_counts_and_keeps_its_row() -> None:
    least: Least = {}
    for ms in (5.0, 3.0, 4.0, 3.0):
        keep_least(least, "granule", {"ms": ms, "loss": ms / 10})
    keep_least(least, "pytorch", {"ms": 9.0})
    assert least == {"granule": {"ms": 3.0, "loss": 0.3}, "pytorch": {"ms": 9.0}}


def test_ms_a_step() -> None:
    assert ms_a_step(1.5, 2.0, 10) == pytest.approx(50)


def test_a_side_is_compared_with_the_same_granularities() -> None:
    least: Least = {
        "granule": {"ms": 2.0},
        "granule-nested": {"ms": 4.0},
        "pytorch": {"ms": 10.0},
        "saelens-matryoshka": {"ms": 10.0},
    }
    assert ratio(least, "pytorch") == 5
    assert ratio(least, "saelens-matryoshka") == 2.5
    lines = table(least).splitlines()
    assert lines[1].split() == ["granule", "2.0", "1.00"]
    assert lines[4].split() == ["saelens-matryoshka", "10.0", "2.50"]


def test_differences_are_relative_to_the_peers_loss() -> None:
    assert relative_difference(1.1, 1.0) == pytest.approx(0.1)
    assert relative_difference(3.6, 4.0) == pytest.approx(0.1)
    assert largest_difference([(1.1, 1.0), (0.8, 1.0), (1, 1)]) == pytest.approx(0.2)
    assert largest_difference([]) == 0


@pytest.mark.parametrize("pairs", [[(math.nan, 1)], [(1, 1), (1, math.nan), (2, 1)]])
def test_a_nan_loss_is_no_small_difference(pairs: list[tuple[float, float]]) -> None:
    assert math.isnan(largest_difference(pairs))
