"""What to verify, from the options that `evidence verify` and `reference-values from` share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from securetf.cli import evidence_tpm
from securetf.cli.endorsements import cached
from securetf.cli.evidence_kinds import SIZE_LIMIT
from securetf.cli.evidence_verify import Request
from securetf.cli.moments import moment
from securetf.errors import MalformedEvidenceError, UsageError
from securetf.evidence import nitro

REPORT_DATA_SIZE = 64  # bytes
_FILE_SIZE_LIMIT = 1024 * 1024  # bytes
_FILE = click.Path(path_type=Path)
_F = TypeVar("_F", bound=Callable[..., Any])
_OPTIONS = (
    click.argument("file", type=_FILE),
    click.option(
        "--report-data",
        "--nonce",
        "report_data",
        required=True,
        help="What the Evidence must answer to, up to 64 bytes in hex (Nitro: 512); for TDX, SGX, SEV-SNP "
        "zero-filled.",
    ),
    click.option(
        "--endorsements",
        type=_FILE,
        multiple=True,
        help="Collateral (JSON) for TDX and SGX; certificates and revocation list (PEM, DER) for SEV-SNP; "
        "enrolments (JSON), issuers and their revocation lists (PEM, DER) for TPMs.",
    ),
    click.option(
        "--cache",
        type=_FILE,
        help="Without --endorsements: a cache that `securetf endorsements fetch|import` filled; offline.",
    ),
    click.option(
        "--event-log",
        type=_FILE,
        help="Event log of TDX that must replay: JSON to RTMR 0 to 3, the firmware's (CCEL) to 0 to 2.",
    ),
    click.option("--at", "moment", help="Time to verify at, ISO 8601 with a zone. Default: now."),
    click.option(
        "--minimum-tcb-evaluation",
        default=0,
        help="Lowest tcbEvaluationDataNumber of TDX and SGX that counts.",
    ),
    click.option(
        "--root",
        "roots",
        type=_FILE,
        multiple=True,
        help="PEM file of roots that count for Nitro and TPMs, beside the built-in ones of AWS and Google.",
    ),
    click.option("--insecure-simulation-root", type=_FILE, help="root.pem of a simulated platform to trust."),
)


def verifying_options(function: _F) -> _F:
    """Add FILE and the options; the command takes them as keywords."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def request_of(file: Path, options: dict[str, Any]) -> Request:
    """Return the request. options: of `verifying_options`, `policy` and `rtmr3`, None where not asked, and
    `insecure_no_revocation`.

    Raises:
        UsageError: an option, or a file that it names, cannot be read. MalformedEvidenceError: FILE cannot.
        EndorsementError: the cache lacks what is needed.
    """
    raw, now = read(file), moment(options["moment"])
    nonce = _nonce(raw, options["report_data"])
    endorsements = [_read_any(one) for one in options["endorsements"]]
    return Request(
        raw=raw,
        report_data=nonce.ljust(REPORT_DATA_SIZE, b"\0"),
        nonce=nonce,
        roots=[_read_any(one) for one in options["roots"]],
        endorsements=endorsements or cached(options["cache"], raw, now),
        policy=_optional(options["policy"]),
        rtmr3=None if options["rtmr3"] is None else _hex("--rtmr3", options["rtmr3"], 48, 48),
        event_log=_optional(options["event_log"]),
        now=now,
        minimum_tcb_evaluation=options["minimum_tcb_evaluation"],
        simulation_root=_optional(options["insecure_simulation_root"]),
        no_revocation=options["insecure_no_revocation"],
    )


def read(file: Path) -> bytes:
    """Return Evidence. Raises MalformedEvidenceError when it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(SIZE_LIMIT)
    except OSError as error:
        raise MalformedEvidenceError(
            f"cannot read {file}: {error.strerror}", "name a file that holds a raw quote or report"
        ) from None


def _nonce(raw: bytes, text: str) -> bytes:
    """Return what Evidence must answer to; only a Nitro document can carry more than report data has."""
    document = raw.startswith(evidence_tpm.COSE)
    return _hex("--report-data", text, 1, nitro.NONCE_SIZE_LIMIT if document else REPORT_DATA_SIZE)


def _hex(option: str, text: str, least: int, most: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{option} is not hexadecimal", "write bytes as pairs of hex digits") from None
    if not least <= len(value) <= most:
        expected = least if least == most else f"{least} to {most}"
        raise UsageError(
            f"{option} has {len(value)} bytes, expected {expected}", "an empty one is never fresh"
        )
    return value


def _optional(file: Path | None) -> bytes | None:
    return None if file is None else _read_any(file)


def _read_any(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_FILE_SIZE_LIMIT)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "name a file that exists") from None
