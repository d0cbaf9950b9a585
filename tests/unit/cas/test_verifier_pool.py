"""Verification in processes: the same answers as in one, refusals included, and nobody is left behind."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from securetf.attester.insecure_simulation import SimulatedTdx, create_platform
from securetf.cas.process import Settings, _verifiers
from securetf.cas.verifier_pool import VerifierPool
from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import BindingError, SecuretfError
from securetf.verifier.parcel import pack, unpack

REPORT_DATA = bytes(range(64))
Verify = Callable[[bytes], VerifiedClaims]


class Slow:
    """A verifier of this process that takes until a test says so, and counts."""

    def __init__(self) -> None:
        self.go, self.count = threading.Event(), 0

    def verify(self, evidence: Evidence, **_: object) -> VerifiedClaims:
        assert evidence.raw
        self.count += 1
        assert self.go.wait(60)
        raise BindingError("verified in this process", "none")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evidence]:
    directory = tmp_path_factory.mktemp("pool") / "platform"
    create_platform(directory, datetime.now(UTC))
    return directory, SimulatedTdx(directory, {}).attest(REPORT_DATA)


@pytest.fixture
def pool(evidence: tuple[Path, Evidence], tmp_path: Path) -> Iterator[VerifierPool]:
    settings = Settings(data=tmp_path, listen="", insecure_simulation=evidence[0])
    made = VerifierPool(partial(_verifiers, settings), processes=1)
    yield made
    made.close()


def children() -> set[int]:
    """Return the processes that this one has started with multiprocessing."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            ours = entry.name.isdigit() and int(fields[1]) == os.getpid()
            if ours and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_claims_when_packed_and_unpacked_then_the_same(
    evidence: tuple[Path, Evidence], tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path, listen="", insecure_simulation=evidence[0])
    (verifier,) = _verifiers(settings).values()
    claims = verifier.verify(evidence[1], expected_report_data=REPORT_DATA, now=datetime.now(UTC))
    assert unpack(pack(claims)) == claims


def test_pool_when_nobody_else_verifies_then_no_process_is_started(
    pool: VerifierPool, evidence: tuple[Path, Evidence]
) -> None:
    before = children()
    slow = Slow()
    slow.go.set()
    for _ in range(3):
        with pytest.raises(BindingError, match="verified in this process"):
            pool.verify(slow, evidence[1], REPORT_DATA, datetime.now(UTC))
    assert children() == before


def test_pool_when_busy_then_others_verify_in_processes_and_all_end_with_it(
    pool: VerifierPool, evidence: tuple[Path, Evidence]
) -> None:
    before = children()
    slow, now = Slow(), datetime.now(UTC)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(pool.verify, slow, evidence[1], REPORT_DATA, now)
        never = Slow()
        never.go.set()
        deadline = time.monotonic() + 60
        while True:  # in this process until the others are there
            try:
                claims = pool.verify(never, evidence[1], REPORT_DATA, now)
                break
            except BindingError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert (claims.platform, claims.simulated) == (Platform.INSECURE_SIMULATION, True)
        assert claims.report_data == REPORT_DATA
        with pytest.raises(SecuretfError) as refused:
            pool.verify(never, evidence[1], bytes(64), now)
        assert isinstance(refused.value, BindingError)
        assert "report data" in refused.value.problem
        assert len(children() - before) == 1
        slow.go.set()
        with pytest.raises(BindingError, match="in this process"):
            first.result()
    pool.close()
    assert children() == before


def test_pool_when_its_process_is_killed_then_verification_goes_on_here(
    pool: VerifierPool, evidence: tuple[Path, Evidence]
) -> None:
    before, now, here = children(), datetime.now(UTC), Slow()
    first = Slow()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.verify, first, evidence[1], REPORT_DATA, now)
        here.go.set()
        deadline = time.monotonic() + 60
        while True:  # until the process is there
            try:
                pool.verify(here, evidence[1], REPORT_DATA, now)
                break
            except BindingError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        (process,) = children() - before
        os.kill(process, signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(BindingError, match="verified in this process"):
                pool.verify(here, evidence[1], REPORT_DATA, now)
        first.go.set()
        with pytest.raises(BindingError):
            waiting.result()
