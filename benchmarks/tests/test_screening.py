"""The screen's rotations, bounds and survivors."""

import numpy as np
import pytest

from screening import Array, Problem, Scheme, hadamard, norms, quantized, root_mean_square, rotation
from screening import survivors as count_survivors


@pytest.mark.parametrize("order", [1, 2, 16])
def test_hadamard_is_orthogonal_with_equal_magnitudes(order: int) -> None:
    matrix = hadamard(order)
    assert matrix @ matrix.T == pytest.approx(np.eye(order))
    assert np.abs(matrix) == pytest.approx(np.full((order, order), order**-0.5))


@pytest.mark.parametrize("d_model", [16, 48, 64, 144, 240])
def test_rotation_is_orthogonal(d_model: int) -> None:
    matrix = rotation(d_model)
    assert matrix.shape == (d_model, d_model)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(d_model), atol=1e-12)


def test_a_rotation_by_powers_of_two_is_hadamards() -> None:
    assert np.abs(rotation(64)) == pytest.approx(np.full((64, 64), 1 / 8))


def test_the_odd_part_is_hartleys() -> None:
    # Every 16th element is one of a Hartley matrix of order 3, times that of Hadamard, 1/4.
    angles = 2 * np.pi * np.outer(range(3), range(3)) / 3
    expected = (np.cos(angles) + np.sin(angles)) / np.sqrt(3) / 4
    assert rotation(48)[::16, ::16] == pytest.approx(expected)


def test_other_widths_are_refused() -> None:
    with pytest.raises(SystemExit, match="multiples of 16"):
        rotation(20)


def test_quantized_rows_are_within_half_a_step() -> None:
    rows = np.random.default_rng(1).normal(size=(20, 30))
    steps = np.abs(rows).max(1) / 127
    error = np.abs(quantized(rows) - rows).max(1)
    assert (error <= steps / 2 + 1e-12).all()
    multiples = quantized(rows) / steps[:, None]
    np.testing.assert_allclose(multiples, np.round(multiples), atol=1e-9)
    assert quantized(np.array([[127.0, -64, 1]])).tolist() == [[127, -64, 1]]


def test_norms_and_root_mean_square() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 12.0]])
    assert norms(rows).tolist() == [5, 12]
    assert root_mean_square(rows) == pytest.approx([np.sqrt(4.5), np.sqrt(80)])


def problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(48, 48)) * np.geomspace(3, 0.1, 48)
    rows = rng.normal(size=(400, 48)) @ mixing + rng.normal(size=48)
    encoder, decoder = rng.normal(size=(2, 200, 48))
    return Problem(encoder, rng.normal(size=200), decoder, rows[300:], rows[:300])


def test_every_scheme_computes_the_same_products() -> None:
    found = problem(2)
    schemes = found.schemes()
    assert len(schemes) == 9
    for name, scheme in schemes.items():
        products = scheme.tokens @ scheme.weights.T + scheme.biases + scheme.extra
        np.testing.assert_allclose(products, found.exact(), atol=1e-9, err_msg=name)


def test_the_bounds_hold() -> None:
    found = problem(3)
    found.tokens = found.tokens[:10]
    for name, scheme in found.schemes().items():
        estimates, errors = bounded(scheme)
        assert (np.abs(estimates - found.exact()) <= errors + 1e-9).all(), name


def bounded(scheme: Scheme) -> tuple[Array, Array]:
    """Estimates and the bounds of their errors, by the inequality of Cauchy and Schwarz."""
    w, x = quantized(scheme.weights), quantized(scheme.tokens)
    estimates = x @ w.T + scheme.biases + scheme.extra
    errors = np.zeros_like(estimates)
    for t, token in enumerate(scheme.tokens):
        for i, weights in enumerate(scheme.weights):
            of_weights = np.linalg.norm(token) * np.linalg.norm(weights - w[i])
            errors[t, i] = of_weights + np.linalg.norm(token - x[t]) * np.linalg.norm(w[i])
    return estimates, errors


@pytest.mark.parametrize("name", ["8 bits", "16 leading directions exact"])
@pytest.mark.parametrize("k", [1, 8, 200])
def test_survivors_are_counted_token_by_token(k: int, name: str) -> None:
    found = problem(4)
    found.tokens = found.tokens[:20]
    exact, scheme = found.exact(), found.schemes()[name]
    by_guess, by_usual, failures = [], [], []
    for true, estimates, errors in zip(exact, *bounded(scheme), strict=True):
        guess = sorted(estimates)[-k] - 3 * np.std(estimates - true)
        usual = sorted(estimates - errors)[-k]
        by_guess.append(sum(estimates + errors >= guess))
        by_usual.append(sum(estimates + errors >= usual))
        failures.append(sorted(true)[-k] < guess)
    expected = (np.mean(by_guess), np.mean(by_usual), np.mean(failures))
    assert count_survivors(exact, scheme, k) == pytest.approx(expected)
    assert by_usual == [max(count, k) for count in by_usual]


def test_survivors_of_a_small_case() -> None:
    # Values that 8 bits hold exactly have no error, so that the k largest and ties survive.
    scheme = Scheme(np.array([[127.0], [64], [64], [1]]), np.array([[127.0]]), np.zeros(4))
    exact = scheme.tokens @ scheme.weights.T
    scheme.weights = scheme.weights.repeat(2, 1)  # a second coordinate at full scale
    scheme.weights[:, 1] = 127
    scheme.tokens = np.array([[127.0, 0]])
    assert count_survivors(exact, scheme, 1)[:2] == (1, 1)
    assert count_survivors(exact, scheme, 2)[:2] == (3, 3)
    assert count_survivors(exact, scheme, 4)[:2] == (4, 4)
