"""One CAS process: opens the state, makes the service, serves until it is told to stop."""

import json
import logging
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securetf.attester.insecure_simulation import SimulatedTdx, load_anchor, load_endorsements
from securetf.cas.http import bind, serve
from securetf.cas.service import CasService, Context, load_or_create
from securetf.cas.store import Store, create_store, open_store
from securetf.cas.store.anchor import InsecureFileAnchor, write_new
from securetf.cas.store.sealing import GENESIS, KEY_SIZE
from securetf.cas.store.store import read_meta
from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import Endorsements
from securetf.errors import CasRollbackError, CasStateError, UsageError
from securetf.verifier import Verifier
from securetf.verifier import insecure_simulation as simulation

ROOT_KEY_FILE = "INSECURE-SIMULATION-cas-root-key"
_ROOT_VERSION = 1
_STORE_ID_SIZE = 16  # bytes
_RELOAD = timedelta(hours=1)

_log = logging.getLogger(__name__)


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the time, UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `securetf cas start` was told. Paths of an INSECURE SIMULATION are named as what they are."""

    data: Path
    listen: str
    insecure_simulation: Path
    insecure_anchor: Path


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a CAS in an INSECURE SIMULATION until SIGTERM. `announce` gets one JSON line when it is ready.

    Raises:
        CasStateError, CasRollbackError: the state is not what was anchored. PortInUseError: cannot listen.
        AttesterError: the simulated platform is not usable.
    """
    _log.warning("insecure_simulation", extra={"platform": str(settings.insecure_simulation)})
    sys.setswitchinterval(0.0005)  # a signature check must not wait 5 ms behind a thread that parses
    listening = bind(settings.listen)
    clock = SystemClock()
    store = _open(settings)
    try:
        service = CasService.of(_context(settings, store, clock))
        host, port = listening.getsockname()[:2]
        line = json.dumps(
            {
                "url": f"https://{f'[{host}]' if ':' in host else host}:{port}",
                "spki_sha256": service.context.identity.spki_sha256,
                "pid": os.getpid(),
                "simulated": service.context.simulated,
            }
        )
        serve(service, listening, lambda: announce(line))
    finally:
        store.close()


def _context(settings: Settings, store: Store, clock: SystemClock) -> Context:
    directory = settings.insecure_simulation
    return Context(
        store=store,
        clock=clock,
        identity=load_or_create(store, clock.now()),
        attester=SimulatedTdx(directory, {}),
        verifiers={Platform.INSECURE_SIMULATION: ReloadingVerifier(directory, clock.now())},
        endorsements=lambda: load_endorsements(directory, clock.now()).to_json(),
    )


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


def _open(settings: Settings) -> Store:
    root_file = settings.insecure_simulation / ROOT_KEY_FILE
    if settings.data.resolve() in (root_file.resolve(), *root_file.resolve().parents):
        raise UsageError(
            "the simulated platform lies inside the CAS's data directory",
            "keep them apart: the data directory is what an untrusted host may see",
        )
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    meta = read_meta(settings.data)
    if meta is None:
        anchor = _new_anchor(settings)
        return create_store(
            settings.data,
            root_key=_root_key(root_file, create=True),
            root_version=_ROOT_VERSION,
            store_id=anchor.store_id,
            anchor=anchor,
        )
    root_keys = {_ROOT_VERSION: _root_key(root_file, create=False)}
    return open_store(
        settings.data, root_keys=root_keys, anchor=InsecureFileAnchor(settings.insecure_anchor, meta.store_id)
    )


def _new_anchor(settings: Settings) -> InsecureFileAnchor:
    """Make the anchor of a new store; take up one that never counted: its first start was killed."""
    path, digest = settings.insecure_anchor, GENESIS.digest()
    if not path.exists():
        return InsecureFileAnchor.create(path, os.urandom(_STORE_ID_SIZE), digest)
    anchor = InsecureFileAnchor.open_unused(path, digest)
    if anchor is None:
        raise CasRollbackError(
            f"{settings.data} holds no database, and the anchor {path} is of one that answered",
            "give the data directory that belongs to this anchor, or name a new anchor file for a new CAS",
        )
    return anchor


def _root_key(path: Path, *, create: bool) -> bytes:
    """Read the root key of an INSECURE SIMULATION; make it for a new CAS when the platform has none."""
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
