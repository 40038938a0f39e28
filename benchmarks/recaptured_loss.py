"""Recaptured loss over several texts, from what `granule evaluate` printed about each."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def recaptured_loss(files: Iterable[Path]) -> Row:
    """The `recaptured` part of one report over all texts: its means weigh every predicted token of
    every text alike, and its ratios are those of the means."""
    return combined([json.loads(file.read_text())["recaptured"] for file in files])


def combined(parts: Sequence[Row]) -> Row:
    weights = [part["predicted_tokens"] for part in parts]

    def mean(values: Sequence[float]) -> float:
        products = (w * v for w, v in zip(weights, values, strict=True))
        return float(sum(products) / sum(weights))

    clean = mean([part["cross_entropy_clean"] for part in parts])
    ablated = mean([part["cross_entropy_mean"] for part in parts])
    rows = []
    for same in zip(*[part["rows"] for part in parts], strict=True):
        spliced = mean([row["cross_entropy"] for row in same])
        rows.append(
            {
                "granularity": same[0]["granularity"],
                "sparsity": same[0]["sparsity"],
                "l0": mean([row["l0"] for row in same]),
                "cross_entropy": spliced,
                "cross_entropy_ratio": clean / spliced,
                "cross_entropy_excess": spliced - clean,
                "loss_recovered_against_mean": 1 - (spliced - clean) / (ablated - clean),
            }
        )
    return {
        "cross_entropy_clean": clean,
        "cross_entropy_mean": ablated,
        "replaced_tokens": sum(part["replaced_tokens"] for part in parts),
        "rows": rows,
    }
