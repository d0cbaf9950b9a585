"""What the host sees of the volumes and of the CAS: names, sizes and bytes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from securetf.errors import DemoError

WINDOW = 32  # bytes; long enough that a hit is no accident
WINDOWS_PER_FILE = 48


@dataclass(frozen=True, slots=True)
class File:
    """One file on the host. name: relative to the searched directory; size in bytes."""

    name: str
    size: int


def listing(directory: Path) -> list[File]:
    """Return all files below `directory`."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return [File(str(path.relative_to(directory)), path.stat().st_size) for path in found]


def windows(raw: bytes) -> set[bytes]:
    """Return up to 48 pieces of 32 bytes, spread over `raw`, each with at least 12 different byte values."""
    step = max(1, (len(raw) - WINDOW) // (WINDOWS_PER_FILE * 4))
    pieces = (raw[start : start + WINDOW] for start in range(0, len(raw) - WINDOW, step))
    telling = [piece for piece in pieces if len(set(piece)) >= 12]
    return set(telling[:: max(1, len(telling) // WINDOWS_PER_FILE)])


def search(directories: Iterable[Path], pieces: Iterable[bytes]) -> list[str]:
    """Return `file: piece` for each piece that stands in a file below one of the directories."""
    wanted, found = list(pieces), []
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                raw = path.read_bytes()
                found += [f"{path}: {piece[:WINDOW]!r}" for piece in wanted if piece in raw]
    return found


def expect_no_plaintext(directories: list[Path], plaintexts: Mapping[str, list[Path]]) -> dict[str, int]:
    """Search the directories for bytes and names of the plaintext files; return how many pieces per kind.

    The same search must find every piece in the plaintext itself: a search that cannot find proves nothing.

    Raises:
        DemoError: plaintext was found, or the search does not find what is there.
    """
    counts = {}
    for kind, files in plaintexts.items():
        pieces = {path.name.encode() for path in files}
        for path in files:
            raw = path.read_bytes()
            own = windows(raw)
            if not own or any(piece not in raw for piece in own):
                raise DemoError(f"{path} gives no pieces to search for", "report this as a defect")
            pieces |= own
        hits = search(directories, pieces)
        if hits:
            raise DemoError(
                f"the host can read {kind}: {hits[0]} and {len(hits) - 1} more",
                "do not use this release for anything confidential, and report this",
            )
        counts[kind] = len(pieces)
    return counts


def largest_file(directory: Path) -> Path:
    """Return the largest file below `directory`."""
    return max(
        (path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def flip_bit(path: Path, offset: int) -> None:
    """Change one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ 1]))
