"""Verification on all cores: Python verifies on one at a time, so a busy CAS uses processes of its own.

They are started when a second attestation arrives while a first is being verified, and never before: a CAS
that is asked now and then verifies in its own process, which is quicker for one.
"""

import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from multiprocessing import get_context
from typing import Any

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.verifier import Verifier
from securetf.verifier.parcel import pack, unpack

# What takes long to verify, and needs nothing of the CAS's state; an enrolled TPM's key stands in the state.
POOLED = frozenset(set(Platform) - {Platform.TPM2, Platform.GCP_VTPM})
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_log = logging.getLogger(__name__)

MakeVerifiers = Callable[[], Mapping[Platform, Verifier]]
_verifiers: dict[Platform, Verifier] = {}  # of a worker process, filled once when it starts


class VerifierPool:
    """Processes that verify. Thread-safe."""

    def __init__(self, make: MakeVerifiers, processes: int | None = None) -> None:
        """make: called in each process, so it must be picklable. processes: as many as there are cores."""
        self._make, self._processes = make, processes or os.cpu_count() or 1
        self._lock, self._wanted, self._end = threading.Lock(), threading.Event(), threading.Event()
        self._busy = 0
        self._executor: ProcessPoolExecutor | None = None
        # The processes end with the thread that started them, so it lives as long as the pool.
        self._thread = threading.Thread(target=self._run, name="cas-verifier-pool", daemon=True)
        self._thread.start()

    def wrap(self, verifiers: Mapping[Platform, Verifier]) -> dict[Platform, Verifier]:
        """Return verifiers that use the pool where it serves."""
        return {
            platform: _Pooled(self, verifier) if platform in POOLED else verifier
            for platform, verifier in verifiers.items()
        }

    def close(self) -> None:
        """End the processes."""
        self._end.set()
        self._wanted.set()
        self._thread.join()

    def verify(
        self, local: Verifier, evidence: Evidence, expected_report_data: bytes, now: datetime
    ) -> VerifiedClaims:
        """Verify here if nobody else does, otherwise in another process once there are some."""
        with self._lock:
            self._busy += 1
            alone, executor = self._busy == 1, self._executor
        try:
            if not alone:
                self._wanted.set()
            if not alone and executor is not None:
                try:
                    asked = (evidence.platform, evidence.raw, expected_report_data, now)
                    return unpack(executor.submit(_work, *asked).result())
                except (BrokenProcessPool, RuntimeError):  # a process was killed, or the pool is closed
                    _log.warning("verifier_pool_broken")
                    with self._lock:
                        self._executor = None
            return local.verify(evidence, expected_report_data=expected_report_data, now=now)
        finally:
            with self._lock:
                self._busy -= 1

    def _run(self) -> None:
        self._wanted.wait()
        if self._end.is_set():
            return
        with ProcessPoolExecutor(
            self._processes, mp_context=get_context("spawn"), initializer=_start, initargs=(self._make,)
        ) as executor:
            started = [executor.submit(os.getpid) for _ in range(self._processes)]
            try:
                for one in started:
                    one.result()
                with self._lock:
                    self._executor = executor
                self._end.wait()
            except BrokenProcessPool:
                _log.warning("verifier_pool_broken")
            finally:
                with self._lock:
                    self._executor = None


class _Pooled:
    def __init__(self, pool: VerifierPool, local: Verifier) -> None:
        self._pool, self._local = pool, local

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        return self._pool.verify(self._local, evidence, expected_report_data, now)


def _start(make: MakeVerifiers) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a CAS that is killed leaves nobody behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the CAS, which ends us
    _verifiers.update(make())


def _work(platform: Platform, raw: bytes, expected_report_data: bytes, now: datetime) -> dict[str, Any]:
    verifier = _verifiers[platform]
    found = verifier.verify(Evidence(platform, raw), expected_report_data=expected_report_data, now=now)
    return pack(found)
