"""What the benchmarks' --help shows."""

import pytest

from command_line import add_threads_option, options_parser


def test_defaults_are_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    parser = options_parser("Line one\n    and two.")
    parser.add_argument("--k", type=int, default=64, help="active latents")
    parser.add_argument("--dead", type=int, default=0, help="dead latents")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--steps", type=int, help="steps (default 10; with --curve 500)")
    parser.add_argument("--files", nargs="+", default=[], help="some files")
    add_threads_option(parser)
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args(["--help"])
    printed = capsys.readouterr().out
    assert "Line one\n    and two." in printed
    options = " ".join(printed[printed.index("options:") :].split())
    assert "the binary (default: .build/release/granule) --k" in options
    assert "active latents (default: 64) --dead DEAD dead latents (default: 0) --json" in options
    assert "print JSON --steps STEPS steps (default 10; with --curve 500) --files" in options
    assert "some files --threads" in options
    assert options.endswith("number of threads (default: one for each core)")
