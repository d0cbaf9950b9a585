"""A drill: the metadata of a volume is copied, the copy is set back, and the shield must notice.

Only the copy is changed. The key and the newest state are the real ones, from the CAS or the trust file.
"""

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from securetf.errors import UsageError, VolumeRollbackError
from securetf.provisioning import VolumeGrant
from securetf.shields.filesystem import closing, open_volume

# docs/formats/volume-v1.md, "Journal": magic, version, flags, length, epoch, counter, sequence
_HEADER = struct.Struct(">4sHHIIQQ")
_HEADER_SIZE = 80


@dataclass(frozen=True, slots=True)
class Trial:
    """One attempt of the drill: the copy ends at `sequence`; what the shield said, or None if it opened."""

    sequence: int
    refusal: VolumeRollbackError | None


def rollback(directory: Path, grant: VolumeGrant, scratch: Path) -> list[Trial]:
    """Set copies of a volume back by one commit, by half of the held ones, and by all; try to open each.

    First the untouched copy must open: what raises then is raised. scratch: an empty directory.
    """
    copy = scratch / "copy"
    copy_metadata(directory, copy)
    with closing(open_volume(copy, grant, None)) as volume:
        held = [commit.seq for commit in volume.log()]
    ends = dict.fromkeys([held[-1] - 1, held[len(held) // 2] - 1, held[0] - 1])
    trials = []
    for number, end in enumerate(ends):
        older = scratch / f"older-{number}"
        copy_metadata(copy, older)
        set_back(older, end)
        trials.append(Trial(end, _refusal(older, grant)))
    return trials


def copy_metadata(source: Path, target: Path) -> None:
    """Copy all but the sealed contents: only metadata decide which state a volume has."""
    if not (source / "metadata").is_dir():
        raise UsageError(f"{source} is not the directory of a volume", "name the one that holds `metadata`")
    shutil.copytree(source / "metadata", target / "metadata", symlinks=True)
    for hint in source.glob("superblock-?"):
        shutil.copy2(hint, target, follow_symlinks=False)


def set_back(copy: Path, end: int) -> None:
    """Cut all records after sequence `end` off the journals of a copy, as an older copy of the storage is."""
    for journal in sorted((copy / "metadata").glob("journal-*")):
        raw = journal.read_bytes()
        cut = next((offset for offset, sequence in _records(raw) if sequence > end), len(raw))
        with journal.open("r+b") as file:
            file.truncate(cut)


def _records(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield offset and sequence of each record."""
    offset = 0
    while offset + _HEADER_SIZE <= len(raw):
        magic, _, _, length, _, _, sequence = _HEADER.unpack_from(raw, offset)
        if magic != b"STFJ":
            return
        yield offset, sequence
        offset += _HEADER_SIZE + length


def _refusal(copy: Path, grant: VolumeGrant) -> VolumeRollbackError | None:
    try:
        with closing(open_volume(copy, grant, None)):
            return None
    except VolumeRollbackError as error:
        return error
