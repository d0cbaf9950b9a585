"""INSECURE SIMULATION of the machine of a CAS: its TEE, its sealed root key and its counter are files."""

import logging
import os
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from securetf.attester.insecure_simulation import SimulatedTdx, load_anchor, load_endorsements
from securetf.cas.store.anchor import InsecureFileAnchor, write_new
from securetf.cas.store.sealing import GENESIS, KEY_SIZE
from securetf.claims import Evidence, VerifiedClaims
from securetf.endorsements import Endorsements
from securetf.errors import CasRollbackError, CasStateError, UsageError
from securetf.verifier import Verifier
from securetf.verifier import insecure_simulation as simulation

ROOT_KEY_FILE = "INSECURE-SIMULATION-cas-root-key"
_STORE_ID_SIZE = 16  # bytes
_RELOAD = timedelta(hours=1)

_log = logging.getLogger(__name__)


class SimulatedMachine:
    """A directory of `securetf simulation create`, and a file in the place of a counter."""

    own_tpm = None

    def __init__(self, platform: Path, anchor: Path, data: Path, now: Callable[[], datetime]) -> None:
        """data: the CAS's directory, which must be another.

        Raises:
            UsageError: the simulated platform lies inside. AttesterError: it cannot be used.
        """
        self._root_file, self._anchor, self._data = platform / ROOT_KEY_FILE, anchor, data
        if data.resolve() in (self._root_file.resolve(), *self._root_file.resolve().parents):
            raise UsageError(
                "the simulated platform lies inside the CAS's data directory",
                "keep them apart: the data directory is what an untrusted host may see",
            )
        self.attester = SimulatedTdx(platform, {})
        self.endorsements = lambda: load_endorsements(platform, now()).to_json()

    def root_key(self, *, create: bool) -> bytes:
        """Read the root key of an INSECURE SIMULATION; make it for a new CAS when the platform has none."""
        return _root_key(self._root_file, create=create)

    def open_anchor(self, store_id: bytes, root_key: bytes) -> InsecureFileAnchor:  # noqa: ARG002
        """Open the anchor of this store."""
        return InsecureFileAnchor(self._anchor, store_id)

    def new_anchor(self, root_key: bytes) -> InsecureFileAnchor:  # noqa: ARG002  (a TPM's needs it)
        """Make the anchor of a new store; take up one that never counted: its first start was killed."""
        path, digest = self._anchor, GENESIS.digest()
        if not path.exists():
            return InsecureFileAnchor.create(path, os.urandom(_STORE_ID_SIZE), digest)
        anchor = InsecureFileAnchor.open_unused(path, digest)
        if anchor is None:
            raise CasRollbackError(
                f"{self._data} holds no database, and the anchor {path} is of one that answered",
                "give the data directory that belongs to this anchor, or name a new anchor for a new CAS",
            )
        return anchor

    def close(self) -> None:
        """Let go of nothing: files are opened when they are used."""


class ReloadingVerifier:
    """The verifier of an INSECURE SIMULATION with collateral that is read again before it gets old."""

    def __init__(self, directory: Path, now: datetime) -> None:
        self._directory, self._anchors = directory, load_anchor(directory)
        self._loaded_at, self._verifier = now, self._load(now)

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        """As `Verifier.verify`; logs a warning each time, because nothing is proved."""
        _log.warning("insecure_simulation_evidence")
        if now - self._loaded_at > _RELOAD:
            self._verifier, self._loaded_at = self._load(now), now
        return self._verifier.verify(evidence, expected_report_data=expected_report_data, now=now)

    def _load(self, now: datetime) -> Verifier:
        endorsements: Endorsements = load_endorsements(self._directory, now)
        return simulation.verifier(self._anchors, endorsements)


def _root_key(path: Path, *, create: bool) -> bytes:
    fix = "name the simulated platform with which this CAS was first started"
    if create and not path.exists():
        try:
            write_new(path, os.urandom(KEY_SIZE))
        except OSError as error:
            raise CasStateError(f"the root key {path} cannot be written: {error.strerror}", fix) from None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CasStateError(f"the root key {path} cannot be read: {error.strerror}", fix) from None
    with os.fdopen(descriptor, "rb") as stream:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        raw = stream.read(KEY_SIZE + 1)
    if mode & 0o177 or len(raw) != KEY_SIZE:
        raise CasStateError(
            f"the root key {path} has mode {mode:04o} and {len(raw)} bytes, expected 0600 and {KEY_SIZE}", fix
        )
    return raw
