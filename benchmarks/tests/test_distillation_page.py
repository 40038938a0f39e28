"""docs/results-distillation.md is made from benchmarks/records/distillation; its arithmetic."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillation_page import Page, cycle_row, how_often, of_same_l0, overlap_rows, seconds
from granule_program import ROOT

DOCS, RECORD = ROOT / "docs", ROOT / "benchmarks" / "records" / "distillation"


def made(folder: Path) -> Page:
    shutil.copy(DOCS / "results-text.md", folder)
    page = Page(RECORD, folder, Path("text"), ["0", "1"], ["128", "96", "192"])
    page.write()
    return page


def test_the_committed_page_is_made_from_the_committed_record(tmp_path: Path) -> None:
    made(tmp_path)
    names = {path.name for path in tmp_path.iterdir()} - {"results-text.md"}
    assert names == {path.name for path in DOCS.glob("results-distillation*")}
    for name in names:
        assert (tmp_path / name).read_bytes() == (DOCS / name).read_bytes(), name


def test_the_shares_of_full_size_are_those_of_the_record(tmp_path: Path) -> None:
    page = made(tmp_path)
    parts = []
    for k in page.ks:
        fvu = {}
        for which in ("with", "without"):
            rows = json.loads((RECORD / f"{which}-core-k{k}.json").read_text())["rows"]
            trained = [row for row in rows if row["sparsity"] == "as-trained"]
            fvu[which] = max(trained, key=lambda row: row["granularity"])["fvu"]
        parts.append(f"{100 * (fvu['with'] / fvu['without'] - 1):.0f} % at k {k}")
    assert page.of_full_size(lambda row: row["fvu"]) == ", ".join(parts)


def test_recovered_loss_weighs_both_texts(tmp_path: Path) -> None:
    page = made(tmp_path)
    files = sorted((RECORD / "losses" / "with-core-k96").glob("*.json"))
    parts = [json.loads(file.read_text())["recaptured"] for file in files]
    weights = np.array([part["predicted_tokens"] for part in parts])
    # The last row as trained is that of full size.
    trained = [[r for r in part["rows"] if r["sparsity"] == "as-trained"] for part in parts]
    values = np.array([rows[-1]["cross_entropy"] for rows in trained])
    spliced = np.average(values, weights=weights)
    clean, mean = (
        np.average(np.array([part[f"cross_entropy_{key}"] for part in parts]), weights=weights)
        for key in ("clean", "mean")
    )
    found = list(page.measured("96").values())[-1]["with"]["loss_recovered_against_mean"]
    assert found == pytest.approx((mean - spliced) / (mean - clean))


def pair(with_core: float, without: float) -> dict[str, dict[str, Any]]:
    return {"with": {"l0": with_core}, "without": {"l0": without}}


def test_l0_may_differ_by_a_tenth() -> None:
    rows = {1: pair(11, 10), 2: pair(10, 11), 3: pair(11.01, 10), 4: pair(10, 11.01)}
    same, others = of_same_l0(rows)
    assert list(same) == [1, 2]
    assert others == ["G 3", "G 4"]
    assert of_same_l0({}) == ({}, [])


def test_the_core_alone_is_not_compared(tmp_path: Path) -> None:
    page = made(tmp_path)
    same, others = page.comparable("128")
    first = min(page.measured("128"))
    assert first not in same
    assert f"G {first:,}" not in others
    assert others == ["G 100"]


def test_how_often() -> None:
    assert how_often([5, 3, 5, 4, 3, 5]) == "3 in 5, 1 in 4, 2 in 3"
    assert how_often([]) == ""


def cycle(core: int, **changes: Any) -> dict[str, Any]:
    measured = [{"fvu": value, "l0": 10 * value} for value in (1.5, 0.5, 0.25)]
    return {
        "cycle": 2,
        "core_latents": core,
        "candidates": 64,
        "selected": [{}, {}, {}],
        "kept": 1,
        "latents_for_coverage": [[0.5, 1], [0.9, 3]],
        "granularities": measured if core else measured[1:],
        "floored_share": 0.25,
        "training_seconds": 1234.5,
        "attribution_seconds": None,
    } | changes


def test_a_cycle_with_a_core_has_the_cores_figures_first() -> None:
    assert cycle_row(cycle(8)) == [
        *(2, 8, 64, 3, 1, 1, 3),
        *("1.5000", "0.5000", "0.2500", "15.0", "2.5", "25 %", "1,234", "–"),
    ]


def test_a_cycle_without_a_core_has_none() -> None:
    row = cycle_row(cycle(0, floored_share=None))
    assert row[7:13] == ["–", "0.5000", "0.2500", "–", "2.5", "–"]


def test_overlap_rows() -> None:
    shares = {"share_at_least_0.5": 1.0, "share_at_least_0.7": 0.5, "share_at_least_0.9": 0.126}
    found = {"mean_largest_cosine": 0.98765, **shares}
    overlap = dict.fromkeys(("second", "first", "random_latents", "random_directions"), found)
    rows = list(overlap_rows({**overlap, "latents": [3, 4]}, "title"))
    assert rows[0] == ["title", "3 in 4", "0.988", "100.0 %", "50.0 %", "12.6 %"]
    assert [row[1] for row in rows] == ["3 in 4", "", "", ""]


def test_seconds() -> None:
    assert seconds(None) == "–"
    assert seconds(12345.6) == "12,346"
