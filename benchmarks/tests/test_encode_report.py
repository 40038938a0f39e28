"""The arithmetic of benchmarks/encode.py."""

import argparse
from typing import Any

import pytest

from encode_report import (
    block_sizes,
    compared,
    figure,
    is_by_granularity,
    numbers,
    series,
    shapes,
    sums_agree,
    table,
)


def test_shapes_and_numbers_are_parsed() -> None:
    assert shapes("576:16384:64,8:16:2") == [(576, 16384, 64), (8, 16, 2)]
    assert numbers("16,1,256,16") == [1, 16, 256]
    with pytest.raises(argparse.ArgumentTypeError):
        shapes("576:16384")
    with pytest.raises(ValueError, match="x"):
        shapes("576:x:64")


def test_block_sizes() -> None:
    assert block_sizes(1) == [1]
    assert block_sizes(256) == [256]
    assert block_sizes(1024) == [256, 1024]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (100, 100.001, True),
        (100, 100.1, False),
        (0, 0.0009, True),
        (0, 0.0011, False),
        (-50, 50, False),
        (float("nan"), 1, False),
        (1, float("nan"), False),
    ],
)
def test_sums_agree(ours: float, theirs: float, expected: bool) -> None:
    assert sums_agree(ours, theirs) is expected


def checked(k: int) -> dict[str, Any]:
    return {"k": k, "survivors_per_token": None, "fallbacks": 1, "tokens_that_differ": 0}


def test_the_best_round_of_each_side_counts() -> None:
    ours = {(1024, 512): [{"ms": 4, "sgemm_ms": 40}, {"ms": 5, "sgemm_ms": 20}]}
    theirs = {(1024, 512, 1024): [0.05, 0.06], (1024, 512, 256): [0.03, 0.012]}
    (row,) = compared((64, 1024, 16), {(1024, 512): checked(8)}, ours, theirs)
    assert row["ms"] == 4
    assert row["speedup_sgemm"] == 5
    assert row["torch_ms"] == pytest.approx(12)
    assert row["speedup_torch"] == pytest.approx(3)
    assert (row["k"], row["d_model"], row["latents"]) == (8, 64, 1024)
    assert table([row]).splitlines()[1].split()[-1] == "all"


def row(batch: int, granularity: int, speedup: float) -> dict[str, Any]:
    return {
        "d_model": 64,
        "latents": 1024,
        "batch": batch,
        "granularity": granularity,
        "speedup_sgemm": speedup,
        "speedup_torch": 2 * speedup,
    }


def test_the_figure_is_over_batches() -> None:
    rows = [row(16, 1024, 3.0), row(1, 1024, 2.0)]
    assert not is_by_granularity(rows)
    assert series(rows) == {
        "sgemm + top-k, 64 × 1024": [(1, 2.0), (16, 3.0)],
        "PyTorch, 64 × 1024": [(1, 4.0), (16, 6.0)],
    }
    assert "tokens a call" in figure(rows, 2)


def test_the_figure_is_over_granularities_if_they_vary() -> None:
    rows = [row(16, 1024, 3.0), row(16, 256, 2.0)]
    assert is_by_granularity(rows)
    # All latents of two sizes are one share.
    assert not is_by_granularity([row(16, 1024, 3.0), row(16, 512, 2.0) | {"latents": 512}])
    assert series(rows)["PyTorch, 64 × 1024"] == [(0.25, 4.0), (1.0, 6.0)]
    assert "as a share of the latents" in figure(rows, 2)
