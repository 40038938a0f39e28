"""The split into training text and held-out text."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from held_out import (
    DEFAULTS,
    Unusable,
    checked_harvest,
    digest,
    facts,
    held_out_files,
    main,
    text_page,
    training_files,
)


def write(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(f"text of {name}")
    return [(folder / name).resolve() for name in names]


def test_digest_is_sha256(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "a.txt")
    assert digest(path) == hashlib.sha256(b"text of a.txt").hexdigest()


@pytest.mark.parametrize("names", DEFAULTS)
def test_known_files_are_held_out(tmp_path: Path, names: list[str]) -> None:
    files = write(tmp_path, *names, "other.txt")[:-1]
    assert held_out_files(tmp_path) == files


def test_the_first_complete_set_counts(tmp_path: Path) -> None:
    write(tmp_path, DEFAULTS[0][0])
    (complete,) = write(tmp_path, *DEFAULTS[1])
    assert held_out_files(tmp_path) == [complete]


def test_named_files_replace_the_known_ones(tmp_path: Path) -> None:
    write(tmp_path, *DEFAULTS[0])
    (named,) = write(tmp_path / "elsewhere", "mine.txt")
    assert held_out_files(tmp_path, [named]) == [named]


def test_what_cannot_be_held_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="is not a folder of text"):
        held_out_files(tmp_path / "nothing")
    with pytest.raises(Unusable, match="held out by default"):
        held_out_files(tmp_path)
    (there,) = write(tmp_path, "there.txt")
    with pytest.raises(Unusable, match=r"missing\.txt: does not exist"):
        held_out_files(tmp_path, [there, tmp_path / "missing.txt"])


def test_training_has_all_other_text(tmp_path: Path) -> None:
    files = write(tmp_path, "a.txt", "b.md", "c.rst", "d.txt", "e.png")
    assert set(training_files(tmp_path, [files[3]])) == set(files[:3])
    assert not set(training_files(tmp_path, [files[0]])) & {files[0]}


def test_a_copy_of_a_held_out_name_is_not_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "text", "a.txt", "b.txt")
    (held_out,) = write(tmp_path / "elsewhere", "a.txt")
    found = training_files(tmp_path / "text", [held_out])
    assert [path.name for path in found] == ["b.txt"]


def test_the_order_is_that_of_the_names_digests(tmp_path: Path) -> None:
    names = [f"{letter}.txt" for letter in "abcdefgh"]
    orders = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write(folder, *names)
        orders.append([path.name for path in training_files(folder, [])])
    assert orders[0] == orders[1]
    assert orders[0] == sorted(names, key=lambda name: hashlib.md5(name.encode()).digest())
    assert orders[0] != names


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    (only,) = write(tmp_path, "only.txt")
    with pytest.raises(Unusable, match="no text besides"):
        training_files(tmp_path, [only])


class Harvest:
    """A harvest of two files by a small model, and a held-out file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "harvest"
        self.model, self.held_out = write(folder, "model.gguf", "held.txt")
        texts = write(folder, "a.txt", "b.txt")
        self.folder.mkdir()
        self.manifest: dict[str, Any] = {
            "text": [{"file": str(path), "sha256": digest(path)} for path in texts],
            "layers": [2, 10],
            "model": {"sha256": digest(self.model)},
            "complete": True,
            "tokens": 1000,
            "tokens_asked": 2000,
        }

    def check(self) -> dict[str, Any]:
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest))
        return checked_harvest(self.folder, [10], self.model, [self.held_out])


@pytest.fixture
def harvest(tmp_path: Path) -> Harvest:
    return Harvest(tmp_path)


def test_a_good_harvest_is_taken(harvest: Harvest) -> None:
    assert harvest.check() == harvest.manifest


def test_a_harvest_with_a_held_out_name_is_refused(harvest: Harvest) -> None:
    harvest.manifest["text"][1] = {"file": "/elsewhere/held.txt", "sha256": "0"}
    with pytest.raises(Unusable, match=r"includes /elsewhere/held\.txt"):
        harvest.check()


def test_a_harvest_with_held_out_text_by_another_name_is_refused(harvest: Harvest) -> None:
    harvest.manifest["text"][0] = {"file": "renamed.txt", "sha256": digest(harvest.held_out)}
    with pytest.raises(Unusable, match=r"includes renamed\.txt"):
        harvest.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [2]}, r"is of layers \[2\], not of \[10\]"),
        ({"model": {"sha256": "0"}}, "was not made with"),
        ({"complete": False}, "not complete, 1,000 tokens of 2000"),
    ],
)
def test_other_harvests_are_refused(harvest: Harvest, change: dict[str, Any], message: str) -> None:
    harvest.manifest |= change
    with pytest.raises(Unusable, match=message):
        harvest.check()


def test_no_harvest_is_refused(harvest: Harvest) -> None:
    with pytest.raises(Unusable, match="does not exist"):
        checked_harvest(harvest.folder / "none", [10], harvest.model, [])


def test_facts_do_not_depend_on_the_order(harvest: Harvest) -> None:
    digests = sorted(text["sha256"] for text in harvest.manifest["text"])
    expected = {
        "tokens": 1000,
        "files": 2,
        "sha256": hashlib.sha256("".join(digests).encode()).hexdigest(),
    }
    assert facts(harvest.manifest) == expected
    harvest.manifest["text"].reverse()
    assert facts(harvest.manifest) == expected


def test_commands(harvest: Harvest, capsys: pytest.CaptureFixture[str]) -> None:
    harvest.check()
    main("asked", str(harvest.folder))
    assert capsys.readouterr().out == "2000\n"
    harvest.manifest["tokens_asked"] = 0
    harvest.check()
    main("asked", str(harvest.folder))
    assert capsys.readouterr().out == "1000\n"
    main("facts", str(harvest.folder))
    assert json.loads(capsys.readouterr().out) == facts(harvest.manifest)
    text = str(harvest.model.parent)
    main("held-out", text, str(harvest.held_out))
    assert capsys.readouterr().out == f"{harvest.held_out}\n"
    main("training", text, str(harvest.held_out))
    names = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert names == {"a.txt", "b.txt"}


def test_text_page_is_linked_if_it_lists_every_digest(tmp_path: Path) -> None:
    assert text_page(tmp_path, ["abc"]) == ""
    (tmp_path / "results-text.md").write_text("abc def")
    assert "(results-text.md)" in text_page(tmp_path, ["abc", "def"])
    assert text_page(tmp_path, ["abc", "xyz"]) == ""
