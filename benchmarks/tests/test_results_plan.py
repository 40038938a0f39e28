"""What the studies train: sizes in proportion, and names that are unique and known."""

import math

import pytest

from results_plan import STUDIES, Comparison, Grid, Run, between, prefixes


def test_prefixes_double_and_between_lies_halfway() -> None:
    assert prefixes(16384) == [1024, 2048, 4096, 8192, 16384]
    assert between(16384) == [1536, 3072, 6144, 12288]


@pytest.mark.parametrize("study", STUDIES)
def test_every_name_is_trained_once_and_every_part_is_known(study: str) -> None:
    plan = STUDIES[study](16384, 64)
    names = [run.name for run in plan.runs]
    assert len(set(names)) == len(names)
    assert {run.part for run in plan.runs} <= set(plan.PARTS)
    assert {ordered.source.name for ordered in plan.all_ordered()} <= set(names)
    evaluated = {name for name, _, _ in plan.dictionaries()}
    assert plan.with_loss <= evaluated


@pytest.mark.parametrize("study", STUDIES)
def test_options_follow_the_size(study: str) -> None:
    for run in STUDIES[study](16384, 64).runs:
        assert run.options["latents"] == run.latents
        assert run.options["granularities"][-1] == run.latents
        assert run.options["granularities"] in ([run.latents], prefixes(run.latents))
        if run.options["objective"] == "jumprelu":
            assert "k" not in run.options
            assert run.options["target_l0"] == 64
        else:
            assert run.options["k"] == run.k


def test_scratch_has_the_fixed_ratio() -> None:
    plan = Comparison(16384, 64)
    runs = {run.name: run for run in plan.runs}
    for g, name in plan.scratch.items():
        assert runs[name].latents == g
        assert runs[name].k * plan.n == plan.k * g


def test_learning_rate_falls_with_the_root_of_the_size() -> None:
    plan = Grid(16384, 64)
    for run in plan.runs:
        expected = 8e-4 * math.sqrt(16384 / run.latents)
        assert plan.learning_rate(run, 8e-4) == pytest.approx(expected, rel=1e-5)
    assert plan.learning_rate(next(r for r in plan.runs if r.latents == 16384), 8e-4) == 8e-4


def test_laws_vary_size_and_sparsity() -> None:
    for dictionaries in Grid(16384, 64).laws.values():
        runs = [item if isinstance(item, Run) else item.source for item in dictionaries]
        assert len({run.latents for run in runs}) > 1
        assert len({run.k for run in runs}) > 1
