"""A program, not a test: does one thing to a file, and says which sequence was anchored before and after.

argv: what to do (close, rename, fsync), directory in the volume, trust file. Prints the sequences as JSON.
"""

import json
import os
import sys
from pathlib import Path


def anchored(trust_file: str) -> int:
    sequence: int = json.loads(Path(trust_file).read_text())["seq"]
    return sequence


def write(path: str) -> int:
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(file, b"promised" * 2000)
    return file


def main() -> None:
    what, directory, trust_file = sys.argv[1:]
    path = f"{directory}/{what}"
    if what == "rename":
        os.close(write(path + ".tmp"))
        before = anchored(trust_file)
        os.rename(path + ".tmp", path)
    else:
        file = write(path)
        before = anchored(trust_file)
        (os.close if what == "close" else os.fsync)(file)
    print(json.dumps([before, anchored(trust_file)]))


if __name__ == "__main__":
    main()
