"""A customer's program: has the lines of a page read by a service, which first proves what it is.

    python read_page.py URL POLICY CHARACTERS LINE.jpg... [--receipts DIRECTORY] [--truth LABELS]

URL: `https://HOST:PORT`. POLICY: what the service must prove, of `securetf verify --print-policy`.
CHARACTERS: the service's `characters.json`. With --receipts it keeps request, response and receipt of each
line. With --truth, `labels.tsv`, it says how many characters were read wrongly.
"""

import argparse
import csv
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import securetf
from securetf.errors import SecuretfError

HEIGHT, LONGEST = 32, 1024  # pixels, as in train.py


def line(path: Path) -> np.ndarray:
    """Ink is positive and paper about 0, however faint the pencil."""
    with Image.open(path) as image:
        width = min(max(image.width * HEIGHT // image.height, 16), LONGEST)
        pixels = np.asarray(image.convert("L").resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    return ((pixels.mean() - pixels) / max(pixels.std(), pixels.size**-0.5))[..., np.newaxis]


def text_of(logits: np.ndarray, characters: list[str]) -> str:
    """The best path: repetitions once, CTC's blank (0) not at all."""
    return "".join(characters[code - 1] for code, _ in itertools.groupby(logits.argmax(-1)) if code)


def distance(one: str, other: str) -> int:
    """Levenshtein: the fewest characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def error_rate(found: dict[Path, str], labels: Path) -> float:
    """Characters read wrongly, by the characters of the same lines in `labels`."""
    with labels.open(encoding="utf-8", newline="") as table:
        rows = csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        true = {labels.parent / name: text for name, _, text in rows}
    return sum(distance(text, true[path]) for path, text in found.items()) / sum(
        len(true[path]) for path in found
    )


def read(service: securetf.Connection, path: Path, receipts: Path | None) -> np.ndarray:
    """Ask for one line; return its logits. Nothing is sent to a service that does not prove itself."""
    body = json.dumps({"instances": [line(path).astype(float).round(3).tolist()]}).encode()
    headers = {"content-type": "application/json"} | ({"securetf-receipt": "request"} if receipts else {})
    url = f"{service.url}/v1/models/lines:predict"
    answer = service.session.post(url, data=body, headers=headers, timeout=60)
    answer.raise_for_status()
    if receipts:
        receipts.mkdir(parents=True, exist_ok=True)
        (receipts / f"{path.stem}.request").write_bytes(body)
        (receipts / f"{path.stem}.response").write_bytes(answer.content)
        (receipts / f"{path.stem}.receipt").write_text(answer.headers["securetf-receipt"])
    return np.array(answer.json()["predictions"][0], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Have the lines of a page read.")
    parser.add_argument("url")
    parser.add_argument("policy", type=Path)
    parser.add_argument("characters", type=Path)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--receipts", type=Path)
    parser.add_argument("--truth", type=Path)
    given = parser.parse_args()
    characters = json.loads(given.characters.read_text(encoding="utf-8"))
    found, seconds = {}, []
    with securetf.connect(given.url, policy=given.policy) as service:
        for path in given.lines:
            begun = time.perf_counter()
            found[path] = text_of(read(service, path, given.receipts), characters)
            seconds.append(time.perf_counter() - begun)
            print(found[path], flush=True)
    print(f"{len(found)} lines, median {statistics.median(seconds) * 1000:.0f} ms each", file=sys.stderr)
    if given.truth:
        print(f"character error rate {error_rate(found, given.truth):.4f}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except SecuretfError as error:  # it did not prove itself, or no longer
        sys.exit(f"read_page: {error}")
