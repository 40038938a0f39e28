"""How codes and reconstructions of two libraries are compared."""

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from peers import FIXTURES, OUTPUTS, SOURCES, TOLERANCE, dense, relative_error, same_active


def test_dense_places_the_active_latents(tmp_path: Path) -> None:
    path = str(tmp_path / "codes.safetensors")
    save_file(
        {
            "row_offsets": np.array([0, 2, 2, 3], np.uint32),
            "indices": np.array([3, 0, 1], np.uint32),
            "values": np.array([1.5, 2.5, 3.5], np.float32),
        },
        path,
    )
    assert dense(path, 4).tolist() == [[2.5, 0, 0, 1.5], [0, 0, 0, 0], [0, 3.5, 0, 0]]


def test_errors_are_relative_to_the_largest_value() -> None:
    expected = np.array([[0.0, 4.0], [-8.0, 1.0]], np.float32)
    assert relative_error(expected, expected) == 0
    assert relative_error(expected + np.float32(0.5), expected) == 0.0625


def test_nan_is_never_within_the_tolerance() -> None:
    expected = np.array([[1.0, 2.0]], np.float32)
    got = np.array([[1.0, math.nan]], np.float32)
    assert not relative_error(got, expected) <= TOLERANCE


def test_active_latents_are_compared_by_place() -> None:
    a = np.array([[0.0, 1.0, 2.0]], np.float32)
    assert same_active(a, a * 3)
    assert not same_active(a, a[:, ::-1])


@pytest.mark.parametrize("source", SOURCES)
def test_every_fixture_is_there(source: str) -> None:
    assert (FIXTURES / source).exists()
    assert (FIXTURES / OUTPUTS.get(source, source) / "expected.safetensors").is_file()
