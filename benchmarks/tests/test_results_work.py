"""Work is done once, and results that do not match the options are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_up_study
import pytest

from results_plan import Comparison
from results_work import (
    Ledger,
    Stale,
    Work,
    commas,
    different,
    first_difference,
    last_count,
    modified,
    spread_out,
)

FINE, BROKEN = [sys.executable, "-c", ""], [sys.executable, "-c", "raise SystemExit(3)"]


def test_commas() -> None:
    assert commas([1, 2.5, "x"]) == "1,2.5,x"
    assert commas([]) == ""


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, [0]),
        (3, [0, 1, 2]),
        (4, [0, 1, 2, 3]),
        (7, [0, 1, 2, 3]),
        (40, [0, 10, 20, 30]),
    ],
)
def test_at_most_four_shards_are_spread_out(count: int, expected: list[int]) -> None:
    shards = [Path(str(number)) for number in range(count)]
    assert [int(path.name) for path in spread_out(shards)] == expected


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (["--k", "1"], ["--k", "2"], "--k 1, and 2 is asked for"),
        (["a", "b"], ["a", "b", "c"], "2 arguments, and 3 are asked for"),
    ],
)
def test_different_names_the_first_difference(
    before: list[str], now: list[str], expected: str
) -> None:
    assert different(before, now) == expected


def test_configurations_are_compared() -> None:
    asked = {"tokens": 8000, "k": 16, "learning_rate": 0.1 + 0.2, "objective": "topk"}
    assert first_difference(asked | {"learning_rate": 0.3}, asked) is None
    assert first_difference(asked | {"learning_rate": 0.301}, asked) == "learning_rate"
    assert first_difference(asked | {"learning_rate": 0.3 + 1e-8}, asked) == "learning_rate"
    small = asked | {"learning_rate": 1e-6}
    assert first_difference(small | {"learning_rate": 1.001e-6}, small) == "learning_rate"
    assert first_difference(asked | {"tokens": 8001}, asked) == "tokens"
    assert first_difference(asked | {"sampled_granularities": 0}, asked) is None
    assert first_difference(asked | {"sampled_granularities": 5}, asked) == "sampled_granularities"
    assert first_difference(asked, asked | {"granularity_weights": [1, 4]}) == "granularity_weights"
    assert first_difference(asked | {"unknown": 1}, asked) is None


def test_k_of_an_objective_without_k_is_not_compared() -> None:
    asked = {"objective": "jumprelu", "target_l0": 16}
    assert first_difference(asked | {"k": 64}, asked) is None
    assert first_difference(asked | {"target_l0": 17}, asked) == "target_l0"


def test_last_count_ignores_a_half_written_line() -> None:
    assert last_count([]) == 0
    assert last_count(['{"tokens": 5}', '{"tokens": 9}']) == 9
    assert last_count(['{"tokens": 5}', '{"tokens": 9']) == 5
    assert last_count(['{"tokens": 5}', '{"loss": 1}']) == 5
    assert last_count(['{"loss": 1}']) == 0


def test_ledger_sums_time_over_interruptions(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.seconds("runs/") == 0
    ledger.run("runs/a", ["train"], FINE)
    first = ledger.seconds_of("runs/a")
    ledger.run("runs/a", ["train", "--resume"], FINE)
    ledger.run("runs/b", ["train"], FINE, facts={"harvested_tokens": 7})
    assert 0 < first < ledger.seconds_of("runs/a")
    read = Ledger(tmp_path)
    assert read.entries == ledger.entries
    assert read.arguments("runs/a") == ["train"]
    assert read.entries["runs/b"]["harvested_tokens"] == 7
    assert read.seconds("runs/") == read.seconds_of("runs/a") + read.seconds_of("runs/b")
    assert read.arguments("runs/c") is None


def test_other_arguments_replace_an_entry_unless_they_fail(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.run("x", ["one"], FINE)
    before = ledger.seconds_of("x")
    with pytest.raises(subprocess.CalledProcessError):
        ledger.run("x", ["two"], BROKEN)
    assert Ledger(tmp_path).arguments("x") == ["one"]
    assert ledger.seconds_of("x") == before
    ledger.run("x", ["two"], FINE)
    assert Ledger(tmp_path).arguments("x") == ["two"]


def test_modified_is_that_of_a_folders_weights(tmp_path: Path) -> None:
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_text("")
    os.utime(weights, ns=(1, 5_000_000_000))
    assert modified(tmp_path) == modified(weights) == 5_000_000_000


@pytest.fixture
def work(tmp_path: Path) -> Work:
    plan = Comparison(256, 16)
    return made_up_study.make(tmp_path, "comparison", plan, made_up_study.noisy(0, {}))


def configured(work: Work, **changes: Any) -> None:
    run = work.plan.runs[0]
    config = work.configuration(run) | changes
    (work.run_folder(run.name) / "config.json").write_text(json.dumps(config))


def test_a_run_with_the_same_options_is_kept(work: Work) -> None:
    configured(work)
    work.check_run(work.plan.runs[0])


def test_a_run_with_other_options_is_stale(work: Work) -> None:
    configured(work, tokens=9000)
    with pytest.raises(Stale, match="has tokens 9000, but 8000 is asked for"):
        work.check_run(work.plan.runs[0])


def test_a_run_on_another_harvest_is_stale(work: Work) -> None:
    configured(work)
    work.ledger.entries["runs/matryoshka"]["harvested_tokens"] = 5000
    with pytest.raises(Stale, match="5,000 tokens, which has 6,144 now"):
        work.check_run(work.plan.runs[0])


def test_a_harvest_of_another_size_is_stale(work: Work) -> None:
    work.check_harvest(work.harvest_folder, 6000)
    with pytest.raises(Stale, match="harvest of 6000 tokens, but 7000"):
        work.check_harvest(work.harvest_folder, 7000)
    work.check_harvest(work.out / "nothing there yet", 7000)


def test_what_was_made_otherwise_or_before_its_source_is_stale(work: Work) -> None:
    weights = work.dictionary("topk") / "sae_weights.safetensors"
    path = work.out / "evaluations" / "topk.json"
    with pytest.raises(Stale, match="does not exist"):
        work.check_made(path, ["evaluate"], "topk")
    weights.write_text("")
    os.utime(weights, ns=(0, path.stat().st_mtime_ns - 1))
    with pytest.raises(Stale, match="command is not known"):
        work.check_made(path, ["evaluate"], "topk")
    work.ledger.entries["evaluations/topk.json"] = {"arguments": ["evaluate", "1"], "seconds": 1}
    work.check_made(path, ["evaluate", 1], "topk")
    with pytest.raises(Stale, match="made with evaluate 1, and 2 is asked for"):
        work.check_made(path, ["evaluate", 2], "topk")
    os.utime(weights, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(Stale, match="older than topk"):
        work.check_made(path, ["evaluate", 1], "topk")


def test_held_out_tokens_are_shared_by_the_files(work: Work) -> None:
    assert work.held_out_share == 200


def test_evaluations_are_at_prefixes_and_between(work: Work) -> None:
    run = work.plan.runs[0]
    (_, fvu), *losses = work.evaluations(run.name, run, True)
    at = fvu[fvu.index("--granularities") + 1]
    assert at == "16,24,32,48,64,96,128,192,256"
    assert len(losses) == len(work.held_out_files)
    for (path, arguments), file in zip(losses, work.held_out_files, strict=True):
        assert path.stem == file.stem
        assert arguments[arguments.index("--text") + 1] == file
        assert arguments[arguments.index("--tokens") + 1] == 64
        assert arguments[arguments.index("--granularities") + 1] == "16,32,64,128,256"


def test_tokens_done(work: Work) -> None:
    run = work.plan.runs[0]
    assert work.tokens_done(run) == 8000
    (work.run_folder(run.name) / "dictionary").rmdir()
    (work.run_folder(run.name) / "metrics.jsonl").write_text('{"tokens": 512}\n{"tok')
    assert work.tokens_done(run) == 512
    (work.run_folder(run.name) / "metrics.jsonl").write_text('{"tokens": 9000}\n')
    assert work.tokens_done(run) == 8000
    (work.run_folder(run.name) / "metrics.jsonl").unlink()
    assert work.tokens_done(run) == 0


def test_list_adds_up_what_is_left(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    for run in work.plan.runs[:2]:
        (work.run_folder(run.name) / "dictionary").rmdir()
    work.show(["main", "seeds"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "16,000 tokens left to train on in main, seeds"
    )
