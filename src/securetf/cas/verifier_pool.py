"""Verification on all cores: Python verifies on one at a time, so a busy CAS uses processes of its own.

They are started when a second attestation arrives while a first is being verified, and never before: a CAS
that is asked now and then verifies in its own process.
"""

import ctypes
import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import SecuretfError
from securetf.verifier import Verifier
from securetf.verifier.parcel import pack, unpack

# What takes long to verify, and needs nothing of the CAS's state; an enrolled TPM's key stands in the state.
POOLED = frozenset(set(Platform) - {Platform.TPM2, Platform.GCP_VTPM})
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_END_S = 5.0  # for a process to end by itself
_log = logging.getLogger(__name__)

MakeVerifiers = Callable[[], Mapping[Platform, Verifier]]


class VerifierPool:
    """Processes that verify, each with a pipe of its own. Thread-safe."""

    def __init__(self, make: MakeVerifiers, processes: int | None = None) -> None:
        """make: called in each process, so it must be picklable. processes: as many as there are cores."""
        self._make, self._processes = make, processes or os.cpu_count() or 1
        self._lock, self._wanted, self._end = threading.Lock(), threading.Event(), threading.Event()
        self._busy, self._up = 0, 0
        self._free: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()  # None: one was lost
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
        """Verify in one of the processes if there are any, otherwise here.

        Here, one holds the interpreter's lock and the next can hardly begin: that two ever met is enough to
        start the processes, and from then on they are always used.
        """
        with self._lock:
            self._busy += 1
            if self._busy > 1:
                self._wanted.set()
            pooled = self._up > 0
        try:
            if pooled:
                found = self._ask((evidence.platform, evidence.raw, expected_report_data, now))
                if isinstance(found, SecuretfError):
                    raise found
                if found is not None:
                    return unpack(found)
            return local.verify(evidence, expected_report_data=expected_report_data, now=now)
        finally:
            with self._lock:
                self._busy -= 1

    def _ask(self, question: object) -> dict[str, Any] | SecuretfError | None:
        """Return a process's answer; None if it was lost, so that nobody waits for what will not come."""
        connection = self._free.get()
        if connection is None:
            self._free.put(None)
            return None
        try:
            connection.send(question)
            answer: dict[str, Any] | SecuretfError = connection.recv()
        except (OSError, EOFError):
            _log.warning("verifier_process_lost")
            with self._lock:
                self._up -= 1
            self._free.put(None)
            return None
        self._free.put(connection)
        return answer

    def _run(self) -> None:
        self._wanted.wait()
        if self._end.is_set():
            return
        context, started = multiprocessing.get_context("spawn"), list[tuple[BaseProcess, Connection]]()
        for _ in range(self._processes):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_work, args=(self._make, theirs), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
        for _, connection in started:
            try:
                connection.recv()  # it has imported everything
            except (OSError, EOFError):
                _log.warning("verifier_process_lost")
                continue
            with self._lock:
                self._up += 1
            self._free.put(connection)
        self._end.wait()
        with self._lock:
            self._up = 0
        self._free.put(None)
        for process, connection in started:
            connection.close()
            process.join(_END_S)
            if process.is_alive():
                process.kill()
                process.join()


class _Pooled:
    def __init__(self, pool: VerifierPool, local: Verifier) -> None:
        self._pool, self._local = pool, local

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: datetime) -> VerifiedClaims:
        return self._pool.verify(self._local, evidence, expected_report_data, now)


def _work(make: MakeVerifiers, connection: Connection) -> None:
    """Body of a process: answer questions until the pipe is closed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a CAS that is killed leaves nobody behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the CAS, which ends us
    verifiers = make()
    connection.send(None)
    while True:
        try:
            platform, raw, expected_report_data, now = connection.recv()
        except (OSError, EOFError):
            return
        try:
            evidence = Evidence(platform, raw)
            claims = verifiers[platform].verify(evidence, expected_report_data=expected_report_data, now=now)
            connection.send(pack(claims))
        except SecuretfError as error:
            connection.send(error)
