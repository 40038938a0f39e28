"""Granule's programs: where they are, and how each command line begins. Nothing else names them."""

import argparse
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRANULE = ROOT / ".build" / "release" / "granule"


def add_granule_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--granule", type=Path, default=GRANULE, help="the binary (default: .build/release/granule)"
    )


def bench_command(granule: Path, bench: str) -> list[str]:
    """The words that start one of Granule's benches: "encode", "model", "serve" or "train".

    granule-bench lies beside granule."""
    return [str(granule.with_name("granule-bench")), bench]


def bench_output(granule: Path, bench: str, *arguments: str) -> str:
    """What the bench prints.

    Raises subprocess.CalledProcessError if it fails."""
    command = [*bench_command(granule, bench), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
