"""Asks a Linux guest's kernel for a report: configfs-tsm (Documentation/ABI/testing/configfs-tsm-report).

One directory for each request: write `inblob`, read `outblob` and `auxblob`, and check by `generation` that
nobody else wrote in between. The directory goes away with the request.
"""

import errno
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from securetf.claims import REPORT_DATA_SIZE
from securetf.errors import AttesterError

ROOT = Path("/sys/kernel/config/tsm/report")
BLOB_SIZE_LIMIT = 128 * 1024  # bytes; the kernel's own limits are 32 KiB and, for certificates, 64 KiB
_WORD_SIZE_LIMIT = 64  # bytes of `provider` and `generation`
_ATTEMPTS = 3  # while another process uses the device (EBUSY, EAGAIN)
_FIX = "run this in a confidential guest with Linux 6.7 or later, configfs mounted, and as root"


@dataclass(frozen=True, slots=True, kw_only=True)
class TsmReport:
    """What the kernel gave. outblob: report or quote. auxblob: certificates of the host, may be empty."""

    outblob: bytes = field(repr=False)
    auxblob: bytes = field(repr=False)


def provider(root: Path = ROOT) -> str:
    """Return the name of this guest's TSM, such as `tdx_guest` or `sev_guest`.

    Raises:
        AttesterError: there is none.
    """
    directory = _make(root)
    try:
        return _read(directory / "provider", _WORD_SIZE_LIMIT).decode("ascii", "replace").strip()
    finally:
        _remove(directory)


def request(report_data: bytes, *, expected_provider: str, root: Path = ROOT) -> TsmReport:
    """Return a fresh report that carries `report_data` (64 bytes).

    Raises:
        AttesterError: no such device, another provider, an error of the kernel, or somebody else's report.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise AttesterError(
            f"report data has {len(report_data)} bytes, expected {REPORT_DATA_SIZE}", "give a SHA-512"
        )
    directory = _make(root)
    try:
        found = _read(directory / "provider", _WORD_SIZE_LIMIT).decode("ascii", "replace").strip()
        if found != expected_provider:
            raise AttesterError(f"this guest's TSM is {found!r}, expected {expected_provider!r}", _FIX)
        before = _generation(directory)
        _write(directory / "inblob", report_data)
        outblob = _read(directory / "outblob", BLOB_SIZE_LIMIT)
        auxblob = _read_optional(directory / "auxblob")
        after = _generation(directory)
    finally:
        _remove(directory)
    if after != before + 1:
        raise AttesterError(
            f"generation went from {before} to {after} around one write: another process wrote too",
            "attest again; if it persists, find out who else writes below " + str(root),
        )
    return TsmReport(outblob=outblob, auxblob=auxblob)


def _make(root: Path) -> Path:
    directory = root / f"securetf-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        _mkdir(directory)
    except OSError as error:
        raise AttesterError(f"{root} gives no reports: {error.strerror}", _FIX) from None
    return directory


def _mkdir(directory: Path) -> None:
    directory.mkdir(mode=0o700)


def _remove(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError as error:
        raise AttesterError(f"{directory} cannot be removed: {error.strerror}", "remove it") from None


def _generation(directory: Path) -> int:
    text = _read(directory / "generation", _WORD_SIZE_LIMIT).strip()
    if not text.isdigit():
        raise AttesterError(f"generation is {text!r}, expected a number", _FIX)
    return int(text)


def _read_optional(path: Path) -> bytes:
    return _read(path, BLOB_SIZE_LIMIT) if path.exists() else b""


def _read(path: Path, limit: int) -> bytes:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with path.open("rb", buffering=0) as stream:
                return _read_all(stream.fileno(), path, limit)
        except OSError as error:
            if error.errno not in {errno.EBUSY, errno.EAGAIN} or attempt == _ATTEMPTS:
                raise AttesterError(f"{path.name} cannot be read: {error.strerror}", _FIX) from None
    raise AttesterError(f"{path.name} stays busy", _FIX)


def _read_all(descriptor: int, path: Path, limit: int) -> bytes:
    content = b""
    while part := os.read(descriptor, limit + 1 - len(content)):
        content += part
        if len(content) > limit:
            raise AttesterError(f"{path.name} has more than {limit} bytes", _FIX)
    return content


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("wb", buffering=0) as stream:
            stream.write(content)
    except OSError as error:
        raise AttesterError(f"{path.name} cannot be written: {error.strerror}", _FIX) from None
