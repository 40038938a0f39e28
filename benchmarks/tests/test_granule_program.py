"""The command lines of Granule's benches."""

import re
import subprocess
from pathlib import Path

import pytest

from granule_program import ROOT, bench_command, bench_output


def program(folder: Path, text: str) -> Path:
    path = folder / bench_name()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return folder / "granule"


def bench_name() -> str:
    """The name of the program that holds the benches."""
    return Path(bench_command(Path("/x/granule"), "train")[0]).name


def test_arguments_follow_the_bench(tmp_path: Path) -> None:
    granule = program(tmp_path, 'echo "$@"')
    assert bench_output(granule, "train", "--k", "4").split()[-3:] == ["train", "--k", "4"]


def test_a_bench_that_fails_is_an_error(tmp_path: Path) -> None:
    granule = program(tmp_path, "exit 3")
    with pytest.raises(subprocess.CalledProcessError):
        bench_output(granule, "train")


def test_no_other_file_names_the_bench_command() -> None:
    named = re.compile(r'"bench"|granule-bench\b(?!-)|granule bench')
    for path in (ROOT / "benchmarks").glob("*.py"):
        text = path.read_text().replace('prefix="granule-bench-"', "")
        if path.name != "granule_program.py":
            assert not named.search(text), path.name
