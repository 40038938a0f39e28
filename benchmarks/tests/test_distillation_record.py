"""What scripts/distill derives."""

import json
from pathlib import Path

import pytest

from distillation_record import floored_share, innermost, main, widened


def test_floored_steps_are_counted_once_as_they_were_last() -> None:
    lines = [
        json.dumps({"step": step, "core_exceeds_k": exceeds})
        for step, exceeds in [(0, True), (1, True), (2, False), (1, False), (2, False), (3, False)]
    ]
    lines.insert(2, json.dumps({"step": 9, "loss": 1.0}))
    assert floored_share(lines) == 0.25
    assert floored_share(lines[:1]) == 1


def test_a_training_without_a_core_has_no_floored_share() -> None:
    with pytest.raises(ValueError, match="without a core"):
        floored_share(['{"step": 1, "loss": 2.0}'])


@pytest.mark.parametrize(
    ("widths", "latents", "expected"),
    [
        ([32, 512, 2048], 68, [68, 512, 2048]),
        ([32, 512, 2048], 512, [512, 2048]),
        ([32, 512, 2048], 600, [600, 2048]),
        ([32], 8, [8]),
    ],
)
def test_innermost(widths: list[int], latents: int, expected: list[int]) -> None:
    assert innermost(widths, latents) == expected


@pytest.mark.parametrize(
    ("widths", "core", "expected"),
    [
        ([32, 512, 2048], 68, [100, 580, 2048]),
        ([32, 512, 580], 68, [100, 580]),
        ([32, 512, 581], 68, [100, 580, 581]),
        ([2048], 68, [2048]),
    ],
)
def test_widened(widths: list[int], core: int, expected: list[int]) -> None:
    assert widened(widths, core) == expected


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "seed.json"
    report.write_text(json.dumps({"core": "/a/path", "core_latents": 68, "cycles": []}))
    main("core-latents", str(report))
    assert capsys.readouterr().out == "68\n"
    main("report", str(report))
    assert capsys.readouterr().out == '{\n "core_latents": 68,\n "cycles": []\n}\n'
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        '{"step": 1, "core_exceeds_k": true}\n{"step": 2, "core_exceeds_k": false}\n'
    )
    main("floored", str(metrics))
    assert capsys.readouterr().out == "0.5\n"
    main("widened", "32,512,2048", "68")
    assert capsys.readouterr().out == "100,580,2048\n"
    main("innermost", "32,512,2048", "68")
    assert capsys.readouterr().out == "68,512,2048\n"
