"""Which text a comparison is judged on, and that what was trained on has none of it.

    python3 benchmarks/held_out.py training FOLDER [HELD-OUT ...]    files to harvest, a line each
    python3 benchmarks/held_out.py held-out FOLDER [HELD-OUT ...]    files to judge on
    python3 benchmarks/held_out.py check HARVEST LAYER MODEL HELD-OUT ...   ends with 1 where it fails
    python3 benchmarks/held_out.py asked HARVEST                     how many tokens were asked for
    python3 benchmarks/held_out.py facts HARVEST                     JSON: tokens, and of which text
"""
import hashlib
import json
import sys
from pathlib import Path

SUFFIXES = (".txt", ".md", ".rst")  # what granule harvest takes of a folder
# Of folders that are known; the first set of which every file is there.
DEFAULTS = [["se_jane-austen_pride-and-prejudice.txt", "tech_rust-book.txt"], ["whatsnew-3.9.txt"]]


class Unusable(Exception):
    """Inputs that cannot be used, in words for the user."""


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def held_out_files(folder, named=()):
    """The files named, else the known ones of the folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise Unusable(f"{folder}: is no folder of text")
    for names in [named] if named else DEFAULTS:
        files = [Path(name) if named else folder / name for name in names]
        missing = [file for file in files if not file.is_file()]
        if not missing:
            return [file.resolve() for file in files]
    if named:
        raise Unusable(f"{missing[0]}: is not there, and was to be held out")
    raise Unusable(f"{folder}: has none of the files that are held out by default: name some")


def training_files(folder, held_out):
    """All others, in an order that mixes kinds and does not depend on where the folder is."""
    names = {path.name for path in held_out}
    files = [path.resolve() for path in Path(folder).iterdir()
             if path.suffix in SUFFIXES and path.name not in names]
    if not files:
        raise Unusable(f"{folder}: has no text but what is held out")
    return sorted(files, key=lambda path: hashlib.md5(path.name.encode()).hexdigest())


def checked_harvest(folder, layers, model, held_out):
    """The manifest of a harvest that can be trained on.

    It is refused where it is not there, not complete, of other layers or of another language model,
    or where it was made of text that is held out: every text that it lists, since attribution reads
    them all, also those that harvesting did not reach."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise Unusable(f"{path}: is not there: name the folder that granule harvest wrote")
    manifest = json.loads(path.read_text())
    names, digests = {file.name for file in held_out}, {digest(file) for file in held_out}
    for text in manifest["text"]:
        if Path(text["file"]).name in names or text["sha256"] in digests:
            raise Unusable(f"{path}: the harvest is of {text['file']}, too, which is held out: "
                           "harvest without it, or hold other files out")
    missing = sorted(set(layers) - set(manifest["layers"]))
    if missing:
        raise Unusable(f"{path}: the harvest is of layers {manifest['layers']}, not of {missing}")
    if manifest["model"]["sha256"] != digest(model):
        raise Unusable(f"{path}: the harvest is of another language model than {model}")
    if not manifest["complete"]:
        raise Unusable(f"{path}: the harvest is not complete, {manifest['tokens']:,} tokens of "
                       f"{manifest['tokens_asked'] or 'all'}: let it end first")
    return manifest


def text_page(folder, digests):
    """A sentence with a link to the page in `folder` that says where text is from, if it lists it."""
    page = Path(folder) / "results-text.md"
    listed = page.read_text() if page.is_file() else ""
    return f" [{page.name}]({page.name}) says what they are." if (
        all(digest in listed for digest in digests)) else ""


def main(what, *arguments):
    if what == "check":
        harvest, layer, model, *held_out = arguments
        checked_harvest(harvest, [int(layer)], model, [Path(file) for file in held_out])
        return
    if what in ("asked", "facts"):
        manifest = json.loads((Path(*arguments) / "manifest.json").read_text())
        digests = "".join(sorted(text["sha256"] for text in manifest["text"]))
        print(manifest["tokens_asked"] or manifest["tokens"] if what == "asked" else json.dumps({
            "tokens": manifest["tokens"], "files": len(manifest["text"]),
            "sha256": hashlib.sha256(digests.encode()).hexdigest()}))
        return
    folder, *named = arguments
    held_out = held_out_files(folder, named)
    print(*(training_files(folder, held_out) if what == "training" else held_out), sep="\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Unusable as unusable:
        sys.exit(str(unusable))
