"""Chooses the text that a comparison is judged on, and checks that nothing was trained on it.

python3 benchmarks/held_out.py training FOLDER [HELD-OUT ...]  prints the files to harvest
python3 benchmarks/held_out.py held-out FOLDER [HELD-OUT ...]  prints the files to judge on
python3 benchmarks/held_out.py check HARVEST LAYER MODEL HELD-OUT ...
                                     exits with 1 if that harvest cannot be trained on
python3 benchmarks/held_out.py asked HARVEST  prints the number of tokens that was asked for
python3 benchmarks/held_out.py facts HARVEST  prints its tokens and a digest of its text, as JSON
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# The files of a folder that `granule harvest` reads.
SUFFIXES = (".txt", ".md", ".rst")
# Files held out of the folders that this project knows: the first set that is there completely.
DEFAULTS = [["se_jane-austen_pride-and-prejudice.txt", "tech_rust-book.txt"], ["whatsnew-3.9.txt"]]

Manifest = dict[str, Any]


class Unusable(Exception):  # noqa: N818 -- names what is wrong with an input, not with the program
    """An input cannot be used. The message says why, in words for the user."""


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def held_out_files(folder: Path, named: Sequence[Path] = ()) -> list[Path]:
    """The named files, or if there are none the known ones of the folder.

    Raises Unusable if a file or the folder is missing."""
    if not folder.is_dir():
        raise Unusable(f"{folder}: is not a folder of text")
    sets = [list(named)] if named else [[folder / name for name in names] for names in DEFAULTS]
    for files in sets:
        if all(file.is_file() for file in files):
            return [file.resolve() for file in files]
    if named:
        missing = next(file for file in named if not file.is_file())
        raise Unusable(f"{missing}: does not exist, but was to be held out")
    raise Unusable(f"{folder}: has none of the files that are held out by default: name some")


def training_files(folder: Path, held_out: Iterable[Path]) -> list[Path]:
    """All other files, in an order that mixes kinds of text and does not depend on the folder.

    Raises Unusable if no other file is there."""
    names = {path.name for path in held_out}
    files = [
        path.resolve()
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and path.name not in names
    ]
    if not files:
        raise Unusable(f"{folder}: has no text besides the files that are held out")
    return sorted(files, key=lambda path: hashlib.md5(path.name.encode()).hexdigest())


def checked_harvest(
    folder: Path, layers: Iterable[int], model: Path, held_out: Sequence[Path]
) -> Manifest:
    """The manifest of a harvest that can be trained on.

    Raises Unusable if the harvest does not exist, is incomplete, lacks a layer, was made with a
    different language model, or lists text that is held out. Every text that the manifest lists
    counts, even if harvesting did not reach it, because attribution reads them all."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise Unusable(f"{path}: does not exist: name the folder that granule harvest wrote")
    manifest: Manifest = json.loads(path.read_text())
    names, digests = {file.name for file in held_out}, {digest(file) for file in held_out}
    for text in manifest["text"]:
        if Path(text["file"]).name in names or text["sha256"] in digests:
            raise Unusable(
                f"{path}: the harvest includes {text['file']}, which is held out: "
                "harvest without it, or hold other files out"
            )
    missing = sorted(set(layers) - set(manifest["layers"]))
    if missing:
        raise Unusable(f"{path}: the harvest is of layers {manifest['layers']}, not of {missing}")
    if manifest["model"]["sha256"] != digest(model):
        raise Unusable(f"{path}: the harvest was not made with {model}")
    if not manifest["complete"]:
        raise Unusable(
            f"{path}: the harvest is not complete, {manifest['tokens']:,} tokens of "
            f"{manifest['tokens_asked'] or 'all'}: let it end first"
        )
    return manifest


def text_page(folder: Path, digests: Iterable[str]) -> str:
    """A sentence with a link to results-text.md in `folder`, if that page lists all the digests."""
    page = folder / "results-text.md"
    listed = page.read_text() if page.is_file() else ""
    if all(digest in listed for digest in digests):
        return f" [{page.name}]({page.name}) says what they are."
    return ""


def facts(manifest: Manifest) -> dict[str, int | str]:
    """Tokens, number of files, and a digest over the digests of the files in any order."""
    digests = "".join(sorted(text["sha256"] for text in manifest["text"]))
    return {
        "tokens": manifest["tokens"],
        "files": len(manifest["text"]),
        "sha256": hashlib.sha256(digests.encode()).hexdigest(),
    }


def main(what: str, *arguments: str) -> None:
    if what == "check":
        harvest, layer, model, *held_out = arguments
        files = [Path(file) for file in held_out]
        checked_harvest(Path(harvest), [int(layer)], Path(model), files)
        return
    if what in ("asked", "facts"):
        manifest = json.loads((Path(*arguments) / "manifest.json").read_text())
        asked = manifest["tokens_asked"] or manifest["tokens"]
        print(asked if what == "asked" else json.dumps(facts(manifest)))
        return
    folder, *named = map(Path, arguments)
    chosen = held_out_files(folder, named)
    print(*(training_files(folder, chosen) if what == "training" else chosen), sep="\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Unusable as unusable:
        sys.exit(str(unusable))
