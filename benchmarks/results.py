#!/usr/bin/env python3
"""Repeats the comparison of "Empirical Evaluation of Progressive Coding for Sparse Autoencoders" on
a small language model: harvests activations, trains, orders and evaluates dictionaries, and writes
docs/results.md or docs/results-grid.md.

--study comparison (docs/results.md) has Matryoshka dictionaries with fixed and with sampled
granularities, reordered or not; TopK dictionaries, reordered by mean squared activation, by
frequency or not at all, and trained from scratch at each smaller size; BatchTopK and JumpReLU;
three seeds; weighted losses.

--study grid (docs/results-grid.md) has TopK and Matryoshka over sizes and k, for the
sparsity–fidelity frontier and the scaling law; BatchTopK and JumpReLU beside them; and the paper's
depth. Each dictionary is trained on fewer tokens.

Work that is done is skipped, and an interrupted run resumes: start the same command again after
Ctrl-C or a crash. A result that does not match the options is named before any work begins.
--parts does only some parts, in the order given; the part "losses" is the recaptured loss of the
dictionaries that are compared by it. The page is written again after each dictionary, from what is
there. --list shows what is done and how many tokens are left to train on.

    python3 benchmarks/results.py --model $(scripts/fetch-model) --text $(scripts/fetch-text)

These options try everything in minutes:
    --latents 256 --k 16 --unique-tokens 6000 --tokens 8000 --batch 512 --validation-sequences 2
    --held-out-tokens 400 --loss-tokens 128 --out try --page try
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from command_line import options_parser
from granule_program import ROOT
from grid_page import GridPage
from held_out import Unusable, held_out_files, training_files
from results_page import ComparisonPage
from results_plan import STUDIES, Comparison, Grid, Plan
from results_work import Stale, Work


def arguments() -> argparse.Namespace:
    parser = options_parser(__doc__)
    add_inputs(parser)
    add_sizes(parser)
    parts = "; ".join(f"of the {name}: {', '.join(s.PARTS)}" for name, s in STUDIES.items())
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", help=f"parts to do (default: all), {parts}"
    )
    parser.add_argument("--list", action="store_true", help="show what is done, and exit")
    options = parser.parse_args()
    study = STUDIES[options.study]
    options.out = options.out or Path("results-out") / options.study
    options.unique_tokens = options.unique_tokens or study.UNIQUE_TOKENS
    options.tokens = options.tokens or study.TOKENS
    options.parts = options.parts or list(study.PARTS)
    if unknown := [part for part in options.parts if part not in study.PARTS]:
        parser.error(f"--parts: {unknown[0]} is not one of {', '.join(study.PARTS)}")
    if options.latents % 64 or options.k % 16 or options.k > options.latents // 8:
        parser.error(
            "--latents must be a multiple of 64, and --k a multiple of 16 of at most an eighth of "
            "it"
        )
    return options


def add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="the language model, a GGUF file")
    parser.add_argument("--text", type=Path, required=True, help="a folder of text")
    parser.add_argument(
        "--held-out-text",
        type=Path,
        nargs="+",
        default=[],
        help="files to evaluate on and never train on (default: the known files of --text)",
    )
    parser.add_argument(
        "--activations",
        type=Path,
        help="an existing harvest of layers 2 and 10, made without the held-out text",
    )
    parser.add_argument(
        "--study", choices=STUDIES, default="comparison", help="see above (default: comparison)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: results-out/STUDY)"
    )
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs", help="folder of the page (default: docs)"
    )


def add_sizes(parser: argparse.ArgumentParser) -> None:
    for option, what, attribute in [
        ("--unique-tokens", "number of tokens to harvest", "UNIQUE_TOKENS"),
        ("--tokens", "number of tokens to train each dictionary on", "TOKENS"),
    ]:
        defaults = ", ".join(
            f"{getattr(study, attribute):,} in {name}" for name, study in STUDIES.items()
        )
        parser.add_argument(option, type=int, help=f"{what} (default: {defaults})")
    parser.add_argument("--batch", type=int, default=4096, help="tokens a step")
    parser.add_argument(
        "--validation-sequences",
        type=int,
        default=200,
        help="sequences of the harvest to calibrate on instead of training on them",
    )
    parser.add_argument(
        "--held-out-tokens", type=int, default=100_000, help="tokens to measure FVU on"
    )
    parser.add_argument(
        "--loss-tokens",
        type=int,
        default=20_480,
        help="tokens to measure recaptured loss on; one in 512 is not replaced",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=8e-4,
        help="learning rate of N latents; a smaller dictionary takes it times √(N / latents)",
    )
    parser.add_argument("--latents", type=int, default=16384, help="N, the largest size")
    parser.add_argument(
        "--k",
        type=int,
        default=64,
        help="active latents of N; every other k is in proportion to it",
    )


def check_inputs(options: argparse.Namespace) -> list[Path]:
    """The held-out files.

    Raises Unusable if an input cannot be used."""
    if not os.access(options.granule, os.X_OK):
        raise Unusable(
            f"{options.granule}: is not a program: run make build, or name it with --granule"
        )
    if not options.model.is_file():
        raise Unusable(f"{options.model}: does not exist: scripts/fetch-model prints where one is")
    held_out = held_out_files(options.text, options.held_out_text)
    training_files(options.text, held_out)
    return held_out


def page(work: Work, plan: Plan) -> ComparisonPage | GridPage:
    if isinstance(plan, Comparison):
        return ComparisonPage(work, plan)
    assert isinstance(plan, Grid)
    return GridPage(work, plan)


def do(work: Work, plan: Plan, parts: Sequence[str]) -> None:
    """Everything that is missing of the parts.

    Raises Unusable if another process is doing the same."""
    lock = os.open(work.out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unusable(f"{work.out}: another process is working on it") from None
    work.check()
    work.harvest()
    for part in parts:
        work.do(part, lambda: page(work, plan).write())
        work.fit_laws()
        page(work, plan).write()


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    try:
        held_out = check_inputs(options)
        plan = STUDIES[options.study](options.latents, options.k)
        work = Work(options, plan, held_out)
        if options.list:
            work.show(options.parts)
        else:
            do(work, plan, options.parts)
    except (Unusable, Stale) as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"granule {error.cmd[1]} ended with {error.returncode}: "
            "start the same command again to resume"
        )
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
