"""Recaptured loss over several texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recaptured_loss import combined, recaptured_loss


def part(tokens: int, clean: float, ablated: float, spliced: list[float]) -> dict[str, Any]:
    return {
        "predicted_tokens": tokens,
        "replaced_tokens": tokens - 1,
        "cross_entropy_clean": clean,
        "cross_entropy_mean": ablated,
        "rows": [
            {"granularity": g, "sparsity": "as-trained", "l0": 10.0 * g, "cross_entropy": value}
            for g, value in enumerate(spliced, 1)
        ],
    }


def test_means_weigh_every_token_alike() -> None:
    parts = [part(100, 3, 9, [4, 3.5]), part(300, 2, 8, [3, 2.5])]
    found = combined(parts)
    weights = np.array([100, 300])
    clean, ablated = (
        np.average(np.array([3, 2]), weights=weights),
        np.average(np.array([9, 8]), weights=weights),
    )
    assert found["cross_entropy_clean"] == pytest.approx(clean)
    assert found["cross_entropy_mean"] == pytest.approx(ablated)
    assert found["replaced_tokens"] == 398
    for row, values in zip(found["rows"], ([4, 3], [3.5, 2.5]), strict=True):
        spliced = np.average(np.array(values), weights=weights)
        assert row["cross_entropy"] == pytest.approx(spliced)
        assert row["cross_entropy_ratio"] == pytest.approx(clean / spliced)
        assert row["cross_entropy_excess"] == pytest.approx(spliced - clean)
        recovered = (ablated - spliced) / (ablated - clean)
        assert row["loss_recovered_against_mean"] == pytest.approx(recovered)
    assert [row["granularity"] for row in found["rows"]] == [1, 2]
    assert [row["l0"] for row in found["rows"]] == [10, 20]


def test_one_text_stays_as_it_is() -> None:
    row = combined([part(7, 3, 9, [3])])["rows"][0]
    assert row["cross_entropy_ratio"] == 1
    assert row["loss_recovered_against_mean"] == 1


def test_the_mean_recovers_nothing() -> None:
    assert combined([part(7, 3, 9, [9])])["rows"][0]["loss_recovered_against_mean"] == 0


def test_texts_with_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        combined([part(7, 3, 9, [3]), part(7, 3, 9, [3, 4])])


def test_files_are_read(tmp_path: Path) -> None:
    files = []
    for number, tokens in enumerate((100, 300)):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps({"recaptured": part(tokens, number, 9, [4])}))
    assert recaptured_loss(files)["cross_entropy_clean"] == pytest.approx(0.75)
