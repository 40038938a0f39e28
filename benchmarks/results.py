#!/usr/bin/env python3
"""The comparison of "Empirical Evaluation of Progressive Coding for Sparse Autoencoders", on a small
language model: harvests, trains, orders and evaluates what docs/results.md shows, and writes it.

--study comparison, docs/results.md: Matryoshka dictionaries (fixed and sampled granularities,
reordered), TopK dictionaries (reordered by mean squared activation and by frequency, unordered, and
trained from scratch at each smaller size), BatchTopK and JumpReLU, three seeds, weighted losses.

--study grid, docs/results-grid.md: TopK and Matryoshka over sizes and k, for the sparsity–fidelity
frontier and the scaling law, BatchTopK and JumpReLU beside them, and the paper's depth, on fewer
tokens each.

What is done already is skipped, and a run that was cut short goes on where it was: start the same
command again after Ctrl-C or a crash. What is there but is not what is asked for now is named, before
any work. --parts takes only some of it, in the order given, of which "losses" is the recaptured loss
of those that are compared by it; after each dictionary the page is written of what there is. --list
shows what is done and the tokens left to train on.

    python3 benchmarks/results.py --model $(scripts/fetch-model) --text $(scripts/fetch-text)

tries all of it in minutes with
    --latents 256 --k 16 --unique-tokens 6000 --tokens 8000 --batch 512 --validation-sequences 2
    --held-out-tokens 400 --loss-tokens 128 --out try --page try
"""
import argparse
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from grid_page import GridPage
from held_out import Unusable, held_out_files, training_files
from results_page import ComparisonPage
from results_plan import STUDIES
from results_work import Stale, Work

ROOT = Path(__file__).resolve().parent.parent


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the language model, GGUF")
    parser.add_argument("--text", type=Path, required=True, help="a folder of text")
    parser.add_argument("--held-out-text", type=Path, nargs="+", default=[],
                        help="files to evaluate on, never trained on; default: those known of --text")
    parser.add_argument("--activations", type=Path,
                        help="a harvest of layers 2 and 10 that is there already, without that text")
    parser.add_argument("--study", choices=STUDIES, default="comparison",
                        help="what is compared, as above; default: comparison")
    parser.add_argument("--out", type=Path, help="default: results-out/STUDY")
    parser.add_argument("--page", type=Path, default=ROOT / "docs", help="where the page goes")
    parser.add_argument("--granule", type=Path, default=ROOT / ".build/release/granule",
                        help="the binary; default: .build/release/granule")
    for option, what, attribute in [("--unique-tokens", "to harvest", "UNIQUE_TOKENS"),
                                    ("--tokens", "to train each one on", "TOKENS")]:
        defaults = ", ".join(f"{getattr(study, attribute):,} in {name}"
                             for name, study in STUDIES.items())
        parser.add_argument(option, type=int, help=f"{what}; default: {defaults}")
    parser.add_argument("--batch", type=int, default=4096, help="tokens a step")
    parser.add_argument("--validation-sequences", type=int, default=200,
                        help="of the harvest, kept from training to calibrate on")
    parser.add_argument("--held-out-tokens", type=int, default=100_000, help="for FVU")
    parser.add_argument("--loss-tokens", type=int, default=20_480,
                        help="for recaptured loss; a token in 512 is not replaced")
    parser.add_argument("--learning-rate", type=float, default=8e-4,
                        help="of the largest size N, smaller ones take it times √(N / latents)")
    parser.add_argument("--latents", type=int, default=16384, help="the largest size, N")
    parser.add_argument("--k", type=int, default=64, help="active latents of N; all else follows")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="of the comparison: "
                        + "; of the grid: ".join(", ".join(s.PARTS) for s in STUDIES.values()))
    parser.add_argument("--list", action="store_true", help="show what is done, and end")
    options = parser.parse_args()
    study = STUDIES[options.study]
    options.out = options.out or Path("results-out") / options.study
    options.unique_tokens = options.unique_tokens or study.UNIQUE_TOKENS
    options.tokens = options.tokens or study.TOKENS
    options.parts = options.parts or study.PARTS
    if unknown := [part for part in options.parts if part not in study.PARTS]:
        parser.error(f"--parts: {unknown[0]} is none of {', '.join(study.PARTS)}")
    if options.latents % 64 or options.k % 16 or options.k > options.latents // 8:
        parser.error("--latents must be a multiple of 64, --k of 16 and at most an eighth of it")
    return options


def check_inputs(options):
    if not os.access(options.granule, os.X_OK):
        raise Unusable(f"{options.granule}: is no program: make build, or name it with --granule")
    if not options.model.is_file():
        raise Unusable(f"{options.model}: is not there: scripts/fetch-model prints where one is")
    held_out = held_out_files(options.text, options.held_out_text)
    training_files(options.text, held_out)
    return held_out


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    try:
        held_out = check_inputs(options)
        work = Work(options, STUDIES[options.study](options.latents, options.k), held_out)
        page = {"comparison": ComparisonPage, "grid": GridPage}[options.study]
        if options.list:
            work.list(options.parts)
            return
        lock = os.open(work.out, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unusable(f"{work.out}: is being worked on by another process") from None
        work.check()
        work.harvest()
        for part in options.parts:
            work.do(part, lambda: page(work).write())
            work.fit_laws()
            page(work).write()
    except (Unusable, Stale) as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"granule {error.cmd[1]} ended with {error.returncode}: start this again to go on")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
