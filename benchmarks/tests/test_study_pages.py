"""The pages of benchmarks/results.py: their arithmetic, and whole pages of made-up studies."""

import math
import re
from pathlib import Path

import made_up_study
import numpy as np
import pytest

from grid_page import GridPage, between_nearest, is_more, on_frontier, term
from results_page import (
    ComparisonPage,
    above_line,
    gaps,
    is_strong,
    larger_deviation,
    mean_and_deviation,
    ranks,
)
from results_plan import Comparison, Grid
from study_page import RATIO, by_granularity, hours, mean_of_last
from verdict import SPREADS

# MARK: Arithmetic


def test_rows_prefer_the_sparsity() -> None:
    rows = [
        {"granularity": 1, "sparsity": "as-trained", "k": 5},
        {"granularity": 1, "sparsity": "fixed-ratio", "k": 2},
        {"granularity": 2, "sparsity": "as-trained", "k": 9},
    ]
    assert {g: row["k"] for g, row in by_granularity(rows, "fixed-ratio").items()} == {1: 2, 2: 9}
    assert {g: row["k"] for g, row in by_granularity(rows, "as-trained").items()} == {1: 5, 2: 9}
    assert by_granularity([], "as-trained") == {}


def test_mean_of_last() -> None:
    lines = [{"l0": float(value)} for value in range(10)] + [{"loss": 1.0}]
    assert mean_of_last(lines, "l0", 4) == 7.5
    assert mean_of_last(lines, "l0", 100) == 4.5
    assert mean_of_last(lines, "other", 4) is None
    assert mean_of_last([], "l0", 4) is None


def test_hours() -> None:
    assert hours(5400) == "1.50 h"
    assert hours(36_000_000) == "10000.00 h"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([5], [0]),
        ([3, 1, 2], [2, 0, 1]),
        ([1, 1, 2], [0.5, 0.5, 2]),
        ([7, 7, 7, 7], [1.5, 1.5, 1.5, 1.5]),
        ([2, 9, 2, 1, 9, 9], [1.5, 4, 1.5, 0, 4, 4]),
    ],
)
def test_equal_values_share_a_rank(values: list[float], expected: list[float]) -> None:
    assert ranks(values) == expected


def test_ranks_of_different_values_are_argsort_twice() -> None:
    values = np.random.default_rng(3).normal(size=50)
    assert ranks(values.tolist()) == np.argsort(np.argsort(values)).tolist()


def test_larger_deviation() -> None:
    kinds = [[1.0, 2.0, 4.0], [3.0, 3.1]]
    assert larger_deviation(kinds) == pytest.approx(np.std(kinds[0], ddof=1))
    assert larger_deviation(iter(kinds[::-1])) == pytest.approx(np.std(kinds[0], ddof=1))
    assert larger_deviation([[1.0, 2.0], [1.0]]) is None
    assert larger_deviation([[1.0, 2.0], []]) is None
    assert larger_deviation([[2.0, 2.0]]) == 0


def test_mean_and_deviation() -> None:
    values = [0.1, 0.2, 0.4]
    expected = f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert mean_and_deviation(values) == expected == "0.2333 ± 0.1528"


def test_above_line() -> None:
    power = [(x, 3 * x**-0.7) for x in (16.0, 24.0, 32.0)]
    assert above_line(power) == pytest.approx(0, abs=1e-12)
    raised = [power[0], (24.0, 1.1 * power[1][1]), power[2]]
    assert above_line(raised) == pytest.approx(0.1)
    assert above_line([(16, 0.5), (24, None), (32, 0.3)]) is None
    assert above_line([(16, 0.5), (24, 0.4), (32, 0.0)]) is None
    # On a plateau after the first point, y in the middle is that of the first.
    expected = np.exp(np.log(0.5) - np.interp(np.log(24), np.log([16, 32]), np.log([0.5, 0.25])))
    assert above_line([(16, 0.5), (24, 0.5), (32, 0.25)]) == pytest.approx(expected - 1)


def test_gaps_are_ratios_of_neighbours() -> None:
    prefix, scratch = {16: 0.6, 32: 0.36, 64: 0.22}, {16: 0.4, 32: 0.3, 64: 0.2}
    pairs, spreads = gaps(prefix, scratch, {16: 0.04, 32: 0.06, 64: None})
    assert list(pairs) == ["G 32 and 16", "G 64 and 32"]
    assert pairs["G 32 and 16"] == pytest.approx((1.2, 1.5))
    assert pairs["G 64 and 32"] == pytest.approx((1.1, 1.2))
    assert spreads["G 32 and 16"] == pytest.approx(0.2)  # 0.06 / 0.3 is more than 0.04 / 0.4
    assert spreads["G 64 and 32"] is None
    assert gaps({16: 0.6}, scratch, {16: 0.1}) == ({}, {})


def test_between_nearest_is_linear_in_logarithms() -> None:
    points = [(64.0, 0.1), (16.0, 0.4), (32.0, 0.25)]
    for x in (16.0, 20.0, 32.0, 50.0, 64.0):
        expected = np.exp(np.interp(np.log(x), np.log([16, 32, 64]), np.log([0.4, 0.25, 0.1])))
        assert between_nearest(points, x) == pytest.approx(expected)
    assert between_nearest(points, 15.9) is None
    assert between_nearest(points, 64.1) is None
    assert between_nearest([], 1) is None
    assert between_nearest([(16, 0.4)], 16) is None
    assert between_nearest([(16, 0.4), (16, 0.5)], 16) == pytest.approx(0.4)


def test_correlations_are_strong_if_all_are() -> None:
    assert is_strong(-0.9, -0.95)
    assert not is_strong(-0.89, -0.99)
    assert not is_strong(-0.99, 0.99)
    assert not is_strong(math.nan, math.nan)


def test_more_shows_in_four_decimals() -> None:
    assert is_more(0.2002, 0.2)
    assert not is_more(0.20005, 0.2)
    assert not is_more(math.nan, 0.2)
    assert not is_more(0.2, math.nan)


def test_frontier() -> None:
    points = {
        "best": [(8, 0.2), (16, 0.1)],
        "worse": [(8, 0.3), (16, 0.1 + 1e-9)],
        "sparser": [(4, 0.5)],
        "beaten everywhere": [(20, 0.5)],
    }
    assert on_frontier(points) == ["best", "sparser"]
    assert on_frontier({"a": [(1, 1)], "b": [(1, 1)]}) == ["a", "b"]
    assert on_frontier({"a": [(4, 0.5)], "b": [(8, 0.5)]}) == ["a"]
    assert on_frontier({"a": [(4, 0.6)], "b": [(4, 0.5)]}) == ["b"]
    assert on_frontier({}) == []


@pytest.mark.parametrize(
    ("name", "coefficient", "error", "expected"),
    [
        ("1", -1.5, 0.25, "constant -1.500 ± 0.250"),
        ("floor: 1", 2.0, None, "floor: constant 2.000 ± unknown"),
        ("log K", None, None, "log K not identified"),
    ],
)
def test_term(name: str, coefficient: float | None, error: float | None, expected: str) -> None:
    found = {"term": name, "coefficient": coefficient, "standard_error": error}
    assert term(found) == expected


# MARK: The comparison's page


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> ComparisonPage:
    folder = tmp_path_factory.mktemp("comparison")
    plan = Comparison(256, 16)
    names = {"matryoshka-sampled": 0.8, "matryoshka": 0.7, "topk-by": 1.2}
    fvu = made_up_study.noisy(1, names)
    page = ComparisonPage(made_up_study.make(folder, "comparison", plan, fvu), plan)
    page.write()
    return page


def claim(lines: list[str], beginning: str) -> str:
    """The one line of a page that states the claim."""
    (line,) = [line for line in lines if line.startswith(f"- {beginning}")]
    return line


def table(lines: list[str], heading: str) -> dict[str, list[str]]:
    """The first table after a heading, by its rows' labels."""
    start = next(i for i, line in enumerate(lines) if line.startswith(heading))
    rows = [i for i, line in enumerate(lines) if line.startswith("| ") and i > start]
    end = next(i for i in range(rows[0], len(lines)) if not lines[i].startswith("|"))
    cells = [line.strip("| ").split(" | ") for line in lines[rows[0] + 2 : end]]
    return {label: values for label, *values in cells}


def test_the_page_is_written(comparison: ComparisonPage) -> None:
    text = (comparison.folder / "results.md").read_text()
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "Not trained yet" not in text
    assert (comparison.folder / "results-fixed-ratio.svg").exists()


def test_fvu_is_shown_at_the_fixed_ratio(comparison: ComparisonPage) -> None:
    names = {"matryoshka-sampled": 0.8, "matryoshka": 0.7, "topk-by": 1.2}
    fvu = made_up_study.noisy(1, names)
    rows = table(comparison.lines, "## FVU at the fixed ratio")
    expected = [f"{fvu('matryoshka', g, g == 256):.4f}" for g in (16, 32, 64, 128, 256)]
    assert rows["Matryoshka"] == expected
    scratch = [f"{fvu(comparison.plan.scratch[g], g, True):.4f}" for g in (16, 32, 64, 128)]
    assert rows["TopK, trained from scratch"][:-1] == scratch


def test_spread_is_that_of_the_seeds(comparison: ComparisonPage) -> None:
    for g in comparison.prefixes:
        kinds = [
            [comparison.at(name, g // 2) for name in names]
            for names in comparison.plan.seeds.values()
        ]
        deviations = np.std(np.array(kinds, float), axis=1, ddof=1)
        assert comparison.spread(g) == pytest.approx(deviations.max())


def test_excess_is_over_the_line_between_neighbours(comparison: ComparisonPage) -> None:
    for name, latents in (("matryoshka", 256), ("matryoshka-128-seed1", 128)):
        low, high = latents // 8, latents // 4
        at = [comparison.at(name, g) for g in (low, (low + high) // 2, high)]
        left, middle, right = np.log(np.array(at, float))
        x = np.log((low + high) / 2)
        on_line = np.interp(x, np.log([low, high]), [left, right])
        found = comparison.excess(name, (low + high) // 2, latents)
        assert found == pytest.approx(np.exp(middle - on_line) - 1)


def test_verdicts_follow_the_figures(comparison: ComparisonPage) -> None:
    beats = "Matryoshka beats reordered TopK at every G below N, "
    line = claim(comparison.lines, beats + "FVU")
    assert f"- {beats}FVU: **holds**." in line
    for g, left, right, spread in re.findall(
        r"G (\d+): ([\d.]+) against ([\d.]+) \(spread ([\d.]+)\)", line
    ):
        assert float(right) - float(left) > SPREADS * float(spread)
        assert float(left) == pytest.approx(comparison.at("matryoshka", int(g)), abs=5e-5)
    assert "**holds**" in claim(comparison.lines, beats + "CE ratio")
    worse = claim(comparison.lines, "Sampled granularities improve the trained ones, FVU")
    assert "**does not hold**" in worse


def test_recaptured_loss_weighs_the_files_tokens(comparison: ComparisonPage) -> None:
    fvu = comparison.at("topk", 256)
    assert fvu is not None
    clean = np.average(np.array([3, 3.125]), weights=np.array([100, 150]))
    spliced = clean + 5 * fvu**1.5 + 0.01 * 150 / 250
    assert comparison.at("topk", 256, key=RATIO) == pytest.approx(clean / spliced)


def test_correlation_of_fvu_and_loss(comparison: ComparisonPage) -> None:
    line = claim(comparison.lines, "FVU and recaptured loss correlate")
    found = re.search(r"r (\S+), of ranks (\S+), over (\d+) codes", line)
    assert found
    points = {}
    for name in comparison.plan.with_loss:
        for sparsity in ("fixed-ratio", "as-trained"):
            losses = comparison.rows(name, sparsity, RATIO)
            rows = comparison.rows(name, sparsity)
            for g in losses:
                if not (g == max(rows) and "-by-" in name):
                    points[name, g, rows[g]["k"]] = (rows[g]["fvu"], losses[g][RATIO])
    fvu, ratio = np.array(list(points.values())).T
    places = [np.argsort(np.argsort(values)) for values in (fvu, ratio)]
    assert int(found[3]) == len(points)
    assert float(found[1]) == pytest.approx(np.corrcoef(fvu, ratio)[0, 1], abs=6e-4)
    assert float(found[2]) == pytest.approx(np.corrcoef(np.array(places, float))[0, 1], abs=6e-4)


def test_l0_in_training_is_the_mean_of_the_last_hundred(comparison: ComparisonPage) -> None:
    rows = table(comparison.lines, "## At full size")
    assert rows["topk"][0] == f"{16 + np.arange(50, 150).mean() / 100:.1f}"


def test_weights_average_the_seeds(comparison: ComparisonPage) -> None:
    rows = table(comparison.lines, "## What nesting costs")
    seeds = comparison.plan.seeds["Matryoshka"]
    values = [comparison.at(name, 128, "as-trained") for name in seeds]
    cell = rows["Matryoshka, equal weights, 3 seeds"][-1]
    assert cell.split(" ")[0] == f"{np.mean(np.array(values, float)):.4f}"


def test_the_power_laws_range_is_the_papers(comparison: ComparisonPage) -> None:
    assert "**holds**" in claim(comparison.lines, "Power law of decoder covariance eigenvalues")
    assert "**does not hold**" in claim(comparison.lines, "Power law of mean squared activation")
    assert "**not measured yet**" in claim(comparison.lines, "Power law of frequency")


def test_an_empty_study_says_what_is_missing(tmp_path: Path) -> None:
    plan = Comparison(256, 16)
    work = made_up_study.make(tmp_path, "comparison", plan, made_up_study.noisy(1, {}))
    for folder in ("evaluations", "losses", "runs"):
        (work.out / folder).rename(work.out / f"no {folder}")
    page = ComparisonPage(work, plan)
    page.write()
    text = "\n".join(page.lines)
    assert "Not trained yet: matryoshka, topk, " in text
    verdicts = re.findall(r"^- .*?: \*\*(.*?)\*\*", text, re.MULTILINE)
    assert len(verdicts) > 20
    assert set(verdicts) == {"not measured yet"}


# MARK: The grid's page


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> GridPage:
    folder = tmp_path_factory.mktemp("grid")
    plan = Grid(256, 16)
    names = {"matryoshka": 0.7, "topk-256": 1.5}
    page = GridPage(made_up_study.make(folder, "grid", plan, made_up_study.noisy(2, names)), plan)
    page.write()
    return page


def test_reversals_are_named(grid: GridPage) -> None:
    text = "\n".join(grid.lines)
    for k in grid.plan.ks:
        small, large = grid.topk_fvu(128, k), grid.topk_fvu(256, k)
        is_reversed = f"N = 256 has more FVU than 128 at k = {k}" in text
        assert is_reversed == (large > small + 1e-4)
    assert "N = 256 has more FVU than 128 at k = 4" in text


def test_fvu_that_is_not_measured_is_nan(grid: GridPage) -> None:
    assert math.isnan(grid.topk_fvu(256, 5))


def test_grid_verdicts_follow_the_figures(grid: GridPage) -> None:
    line = claim(grid.lines, "Matryoshka beats reordered TopK at every G below N, k = 16")
    assert "**holds**" in line
    name = f"{grid.plan.topk(256, 16)}-by-mean-squared-activation"
    right = grid.at_law(name, 16)
    assert right is not None
    assert f"G 16: {grid.at('matryoshka', 16):.4f} against {right:.4f}" in line
    assert grid.at_law("unknown", 16) is None


def test_scratch_at_l0_lies_between_the_nearest_k(grid: GridPage) -> None:
    low, high = (grid.rows(grid.plan.topk(64, k))[64] for k in (8, 16))
    assert grid.scratch_at_l0(64, low["l0"]) == pytest.approx(low["fvu"])
    middle = math.sqrt(low["l0"] * high["l0"])
    expected = math.sqrt(low["fvu"] * high["fvu"])
    assert grid.scratch_at_l0(64, middle) == pytest.approx(expected)
    assert grid.scratch_at_l0(64, 1000) is None


def test_laws_without_enough_points_are_not_shown(grid: GridPage) -> None:
    laws = [line for line in grid.lines if "R² 0.9900" in line]
    assert len(laws) == 4
    assert "with a floor, 12 points" in laws[1]
    assert "constant -1.500 ± 0.250, log K not identified, log N 0.125 ± unknown." in laws[0]
