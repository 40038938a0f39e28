"""Pages, tables and cells of Markdown."""

from pathlib import Path

import pytest

from markdown_page import MarkdownPage, cell


def test_a_page_is_saved_with_one_newline_at_its_end(tmp_path: Path) -> None:
    page = MarkdownPage()
    page.say("# Title", "Text.")
    page.table(["a", "b", "c"], [["x", 1, 2.5], ["y", "–", 3]])
    page.save(tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == (
        "# Title\n\nText.\n\n| a | b | c |\n| --- | ---: | ---: |\n| x | 1 | 2.5 |\n| y | – | 3 |\n"
    )


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(None, 4, "–"), (0.0, 2, "0.00"), (1 / 3, 4, "0.3333"), (12.5, 0, "12"), (-0.125, 1, "-0.1")],
)
def test_cell(value: float | None, digits: int, expected: str) -> None:
    assert cell(value, digits) == expected
