"""A page of Markdown that is written from top to bottom."""

from collections.abc import Iterable, Sequence
from pathlib import Path


class MarkdownPage:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, *paragraphs: str) -> None:
        self.lines += [line for p in paragraphs for line in (p, "")]

    def table(self, head: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
        """A table whose first column is text and whose other columns are numbers."""
        self.lines.append("| " + " | ".join(head) + " |")
        self.lines.append("| --- |" + " ---: |" * (len(head) - 1))
        self.lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows] + [""]

    def save(self, path: Path) -> None:
        path.write_text("\n".join(self.lines).rstrip() + "\n")
        print(f"wrote {path}", flush=True)


def cell(value: float | None, digits: int = 4) -> str:
    """The value with that many decimals, or a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
