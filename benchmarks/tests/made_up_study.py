"""A study's folder with made-up measurements, for tests of the pages that are written from it."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from results_plan import Grid, Ordered, Plan
from results_work import Work

# FVU of a dictionary at a granularity, as-trained or at the fixed ratio.
FVU = Callable[[str, int, bool], float]
HELD_OUT = ["one.txt", "two.txt"]


def options(folder: Path, study: str, latents: int, k: int) -> argparse.Namespace:
    return argparse.Namespace(
        out=folder / "out",
        model=folder / "model.gguf",
        granule=folder / "granule",
        activations=None,
        page=folder / "page",
        study=study,
        unique_tokens=6000,
        tokens=8000,
        batch=512,
        validation_sequences=2,
        held_out_tokens=400,
        loss_tokens=128,
        learning_rate=8e-4,
        latents=latents,
        k=k,
    )


def make(folder: Path, study: str, plan: Plan, fvu: FVU) -> Work:
    """Everything of the plan, measured with those FVU. Cross-entropy falls as FVU does."""
    work = Work(options(folder, study, plan.n, plan.k), plan, [folder / name for name in HELD_OUT])
    manifest = {
        "tokens": 6144,
        "tokens_asked": 6000,
        "text": [{"file": "a.txt", "sha256": "aa"}, {"file": "b.txt", "sha256": "bb"}],
        "model": {"file": "/models/small.gguf", "sha256": "00"},
    }
    save(work.out / "activations" / "manifest.json", manifest)
    for run in plan.runs:
        dictionary = work.run_folder(run.name) / "dictionary"
        dictionary.mkdir(parents=True)
        lines = [{"step": step, "l0": run.k + step / 100} for step in range(150)]
        lines.append({"step": 150})
        (dictionary.parent / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for ordered in plan.all_ordered():
        (work.out / "ordered" / ordered.name).mkdir(parents=True)
    for name, run, is_nested in plan.dictionaries():
        rows = rows_of(name, run.latents, run.k, granularities(plan, run.latents, is_nested), fvu)
        save(work.out / "evaluations" / f"{name}.json", report(rows, run.latents))
        if name in plan.with_loss:
            for number, file in enumerate(HELD_OUT):
                path = work.out / "losses" / name / f"{Path(file).stem}.json"
                save(path, {"recaptured": recaptured(rows, number)})
    work.ledger.entries = {
        key: {"arguments": [], "seconds": seconds}
        for key, seconds in [("harvest", 360.0), ("harvest one", 36.0), ("evaluations/x", 72.0)]
    } | {f"runs/{run.name}": {"arguments": [], "seconds": 36.0} for run in plan.runs}
    if isinstance(plan, Grid):
        make_laws(work, plan, fvu)
    return work


def granularities(plan: Plan, latents: int, is_nested: bool) -> list[int]:
    at = [*plan.prefixes, *plan.between] if is_nested else [plan.n]
    return sorted(latents * g // plan.n for g in at)


def rows_of(name: str, latents: int, k: int, at: list[int], fvu: FVU) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for g in at:
        for sparsity in ("as-trained", "fixed-ratio"):
            as_trained = sparsity == "as-trained"
            active = round(k * (g / latents) ** 0.5) if as_trained else max(1, k * g // latents)
            value = fvu(name, g, as_trained)
            row = {
                "granularity": g,
                "sparsity": sparsity,
                "k": active,
                "l0": active + 0.25,
                "fvu": value,
                "fvu_scalar_mean": value * 0.9,
                "rsa": 1 - value / 2,
                "dead_latents": g // 7,
            }
            if as_trained or active != rows[-1]["k"]:
                rows.append(row)
    return rows


def report(rows: list[dict[str, Any]], latents: int) -> dict[str, Any]:
    return {
        "tokens": 400,
        "rows": rows,
        "power_laws": [
            {"of": "decoder_covariance_eigenvalues", "exponent": -0.6, "r_squared": 0.98},
            {"of": "mean_squared_activation", "exponent": -0.9, "r_squared": None},
            {"of": "frequency", "exponent": None, "r_squared": None},
        ],
        "activation_mass": {
            "share_of_first": [
                {"latents": row["granularity"], "share": (row["granularity"] / latents) ** 0.5}
                for row in rows
            ]
        },
    }


def recaptured(rows: list[dict[str, Any]], number: int) -> dict[str, Any]:
    clean = 3 + number / 8
    return {
        "predicted_tokens": 100 + 50 * number,
        "replaced_tokens": 90 + 50 * number,
        "cross_entropy_clean": clean,
        "cross_entropy_mean": clean + 6,
        "rows": [
            {
                "granularity": row["granularity"],
                "sparsity": row["sparsity"],
                "l0": row["l0"],
                "cross_entropy": clean + 5 * row["fvu"] ** 1.5 + number / 100,
            }
            for row in rows
        ],
    }


def make_laws(work: Work, plan: Grid, fvu: FVU) -> None:
    terms = [
        {"term": "1", "coefficient": -1.5, "standard_error": 0.25},
        {"term": "log K", "coefficient": None, "standard_error": None},
        {"term": "log N", "coefficient": 0.125, "standard_error": None},
    ]
    for label, dictionaries in plan.laws.items():
        found = []
        for item in dictionaries:
            run = item.source if isinstance(item, Ordered) else item
            rows = rows_of(
                item.name, run.latents, run.k, granularities(plan, run.latents, True), fvu
            )
            found.append({"dictionary": item.name, "latents": run.latents, "rows": rows})
        laws = [
            {"sparsity": s, "has_floor": f, "points": p, "r_squared": 0.99, "terms": terms}
            for s, f, p in [("as-trained", False, 20), ("fixed-ratio", True, 12), ("none", True, 3)]
        ]
        save(work.law(label), {"dictionaries": found, "scaling_laws": laws})


def noisy(seed: int, names: dict[str, float]) -> FVU:
    """0.5 at 16 latents and falling, times a factor by the first name that the dictionary's begins
    with, with some noise."""

    def fvu(name: str, g: int, as_trained: bool) -> float:
        factor = next((value for prefix, value in names.items() if name.startswith(prefix)), 1.0)
        key = [seed, g, int(as_trained), *name.encode()]
        noise = np.random.default_rng(key).normal(0, 0.01)
        return float(0.5 * factor * (16 / g) ** (0.4 if as_trained else 0.3) * np.exp(noise))

    return fvu


def save(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
