"""Command lines of the benchmarks."""

import argparse
import os

from granule_program import add_granule_option


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the default of every option that has one, unless its help already does."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        has_none = action.default is None or action.default is False or action.default == []
        if text is None or has_none or action.default == argparse.SUPPRESS or "(default" in text:
            return text
        return text + " (default: %(default)s)"


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help begins with the description as it is written, with --granule."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    add_granule_option(parser)
    return parser


def add_threads_option(parser: argparse.ArgumentParser) -> None:
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--threads", type=int, default=cores, help="number of threads (default: one for each core)"
    )
