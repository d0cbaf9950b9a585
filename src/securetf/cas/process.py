"""One CAS process: opens the state, makes the service, serves until it is told to stop."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from securetf.attester import Attester
from securetf.cas.hardware_verifiers import MINIMUM_TCB_EVALUATION, TpmRoots, hardware_verifiers, tpm_verifier
from securetf.cas.http import serve
from securetf.cas.service import CasService, Context, load_or_create
from securetf.cas.service.tpm import OwnTpm, TpmTrust, enrolment_of
from securetf.cas.simulated_machine import ReloadingVerifier, SimulatedMachine
from securetf.cas.store import MonotonicAnchor, Store, create_store, open_store
from securetf.cas.store.store import read_meta
from securetf.cas.tpm_machine import HardwareSettings, TpmMachine
from securetf.cas.verifier_pool import VerifierPool
from securetf.claims import Platform
from securetf.endorsements.cache import Cache
from securetf.endorsements.library import Library
from securetf.endorsements.sources import Sources
from securetf.errors import EndorsementError, EnvironmentUnfitError
from securetf.listening import bind
from securetf.verifier import Verifier

_ROOT_VERSION = 1

_log = logging.getLogger(__name__)


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the time, UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()


class StoredAnchor(MonotonicAnchor, Protocol):
    """An anchor that knows its store."""

    @property
    def store_id(self) -> bytes: ...


class Machine(Protocol):
    """What the CAS itself runs on."""

    @property
    def attester(self) -> Attester: ...
    @property
    def own_tpm(self) -> OwnTpm | None: ...
    def endorsements(self) -> str: ...
    def root_key(self, *, create: bool) -> bytes: ...
    def open_anchor(self, store_id: bytes, root_key: bytes) -> MonotonicAnchor: ...
    def new_anchor(self, root_key: bytes) -> StoredAnchor: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `securetf cas start` was told. Paths of an INSECURE SIMULATION are named as what they are.

    hardware: what the CAS itself runs on; None: a simulation, which then needs both of its paths.
    endorsements: directory of the cache; None: no hardware is verified. sources: None: nothing is fetched.
    tpm_roots: PEM.
    """

    data: Path
    listen: str
    insecure_simulation: Path | None = None
    insecure_anchor: Path | None = None
    hardware: HardwareSettings | None = None
    endorsements: Path | None = None
    sources: Sources | None = None
    tpm_roots: Path | None = None
    minimum_tcb_evaluation: int = MINIMUM_TCB_EVALUATION


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a CAS until SIGTERM. `announce` gets one JSON line when it is ready.

    Raises:
        EnvironmentUnfitError: nothing keeps its root key. PortInUseError: cannot listen.
        CasStateError, CasRollbackError: the state is not what was anchored. AttesterError: the platform is
        not usable.
    """
    if settings.insecure_simulation is not None:
        _log.warning("insecure_simulation", extra={"platform": str(settings.insecure_simulation)})
    sys.setswitchinterval(0.0005)  # a signature check must not wait 5 ms behind a thread that parses
    listening = bind(settings.listen)
    clock = SystemClock()
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    machine = _machine(settings, clock)
    store: Store | None = None
    fresh = None if settings.sources is None else replace(settings.sources)  # without its connections
    pool = VerifierPool(partial(_verifiers, replace(settings, hardware=None, sources=fresh)))
    try:
        store = _open(settings.data, machine)
        service = CasService.of(_context(settings, machine, store, clock, pool))
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
        pool.close()
        if store is not None:
            store.close()
        machine.close()


def _machine(settings: Settings, clock: SystemClock) -> Machine:
    if settings.hardware is not None:
        return TpmMachine(settings.hardware, settings.data)
    if settings.insecure_simulation is None or settings.insecure_anchor is None:
        raise EnvironmentUnfitError(
            "it is not said what keeps the CAS's root key and its anchor",
            "name the platform with `--attester` (docs/platforms.md), or for a trial give both "
            "--insecure-simulation and --insecure-anchor",
        )
    return SimulatedMachine(settings.insecure_simulation, settings.insecure_anchor, settings.data, clock.now)


def _verifiers(settings: Settings) -> dict[Platform, Verifier]:
    """Return the verifiers that need nothing of the CAS's state; worker processes call this too."""
    verifiers: dict[Platform, Verifier] = {}
    if settings.endorsements is not None:
        library = Library(Cache(settings.endorsements), settings.sources)
        verifiers |= hardware_verifiers(library, minimum_tcb_evaluation=settings.minimum_tcb_evaluation)
    if settings.insecure_simulation is not None:
        now = SystemClock().now()
        verifiers[Platform.INSECURE_SIMULATION] = ReloadingVerifier(settings.insecure_simulation, now)
    return verifiers


def _context(
    settings: Settings, machine: Machine, store: Store, clock: SystemClock, pool: VerifierPool
) -> Context:
    verifiers = pool.wrap(_verifiers(settings))
    tpm_trust = None
    if settings.tpm_roots is not None:
        if settings.endorsements is None:
            raise EndorsementError("`--tpm-roots` without `--endorsements`", "name the cache's directory too")
        library = Library(Cache(settings.endorsements), settings.sources)
        roots = TpmRoots.of(_read(settings.tpm_roots))
        tpm_trust = TpmTrust(anchors=roots.anchors, completed=partial(roots.completed, library))
        known = partial(enrolment_of, store)
        verifiers[Platform.TPM2] = tpm_verifier(library, tpm_roots=roots, enrolment_of=known)
    return Context(
        store=store,
        clock=clock,
        identity=load_or_create(store, clock.now()),
        attester=machine.attester,
        verifiers=verifiers,
        endorsements=machine.endorsements,
        tpm_trust=tpm_trust,
        own_tpm=machine.own_tpm,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EndorsementError(
            f"{path} cannot be read: {error.strerror}", "name a file of PEM roots"
        ) from None


def _open(data: Path, machine: Machine) -> Store:
    meta = read_meta(data)
    if meta is None:
        root_key = machine.root_key(create=True)
        anchor = machine.new_anchor(root_key)
        return create_store(
            data,
            root_key=root_key,
            root_version=_ROOT_VERSION,
            store_id=anchor.store_id,
            anchor=anchor,
        )
    root_key = machine.root_key(create=False)
    return open_store(
        data, root_keys={_ROOT_VERSION: root_key}, anchor=machine.open_anchor(meta.store_id, root_key)
    )
