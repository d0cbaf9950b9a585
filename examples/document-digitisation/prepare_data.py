"""Writes lines of text as images with their transcription, from the first of these that is there:

1. ../shared/data/peraire-lines.zip beside the checkout: 2,535 lines of the notebooks of Lucien Péraire, cut
   from the pages of the data set `alix-tz/peraire-ground-truth` (CC BY 4.0), checked against its SHA-256;
2. without it, lines of random letters in Pillow's own font: not handwriting, and it says so.

DIRECTORY gets `train/*.jpg`, `test/*.jpg`, `labels.tsv` (image, page, text), and `characters.json`: all that
occur in the texts to train on.

Usage: python prepare_data.py DIRECTORY [--archive FILE]
"""

import argparse
import csv
import hashlib
import io
import json
import random
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "peraire-lines.zip"
ARCHIVE_SHA256 = "e1a612e5ec00263365f5ccf4e411af8cba9001dbd4680219379d4e1a041e9fb5"
HEIGHT = 48  # pixels of a line
LETTERS = "abcdefghijklmnopqrstuvwxyz"
RENDERED = {"train": 600, "test": 60}

Row = tuple[str, str, str]
Files = dict[str, bytes]


class NotAvailableError(Exception):
    """The archive cannot give the data; its text says why."""


def from_archive(path: Path) -> Files:
    """Read the archive and check it: what its digest names has these files and no others."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NotAvailableError(f"{path} cannot be read: {error.strerror}") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != ARCHIVE_SHA256:
        raise NotAvailableError(f"{path} has the SHA-256 {found}, expected {ARCHIVE_SHA256}")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def rendered(counts: dict[str, int], letters: str = LETTERS) -> Files:
    """Draw lines of three random words; the same arguments give the same bytes."""
    chance, font = random.Random(7), ImageFont.load_default(30)  # noqa: S311  (no secret)
    files, rows = {}, []
    for part, count in counts.items():
        for number in range(count):
            text = " ".join("".join(chance.choices(letters, k=chance.randint(2, 7))) for _ in range(3))
            drawn = text.replace(" ", "   ")  # as far apart as written words
            image = Image.new("L", (round(font.getlength(drawn)) + 24, HEIGHT), chance.randint(190, 240))
            place, ink = (12, chance.randint(2, 8)), chance.randint(30, 130)
            ImageDraw.Draw(image).text(place, drawn, fill=ink, font=font)
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=90)
            files[f"{part}/{number:05}.jpg"] = stream.getvalue()
            rows.append((f"{part}/{number:05}.jpg", f"{part}-page-{number // 20}", text))
    files["labels.tsv"] = "".join("\t".join(row) + "\n" for row in rows).encode()
    return files


def rows_of(labels: bytes) -> list[Row]:
    """Return image, page and text of each line."""
    table = csv.reader(io.StringIO(labels.decode(), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(name, page, text) for name, page, text in table]


def write(files: Files, directory: Path) -> list[Row]:
    """Write all files and the table of characters; return the lines."""
    rows = rows_of(files["labels.tsv"])
    characters = sorted({one for name, _, text in rows if name.startswith("train/") for one in text})
    table = json.dumps(characters, ensure_ascii=False).encode()
    for name, content in {**files, "characters.json": table}.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Write lines of text as images with their transcription.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--archive", type=Path, default=SHARED)
    options = parser.parse_args()
    try:
        files, what = from_archive(options.archive), "handwritten lines (Péraire, CC BY 4.0), digest checked"
    except NotAvailableError as reason:
        print(f"no handwriting: {reason}")
        files, what = rendered(RENDERED), "lines of random letters in a printed font: NOT HANDWRITING"
    rows = write(files, options.directory)
    parts = [sum(name.startswith(part) for name, _, _ in rows) for part in ("train/", "test/")]
    print(f"{parts[0]} + {parts[1]} {what}")


if __name__ == "__main__":
    main()
