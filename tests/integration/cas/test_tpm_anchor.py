"""The CAS's anchor on a real software TPM's counter: every older file is refused, and so is a forged one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_counter import TpmCounter
from securetf.cas.store.anchor import Anchored
from securetf.cas.store.tpm_anchor import TpmAnchor
from securetf.errors import CasRollbackError, CasStateError
from support.swtpm import SoftwareTpm, make_tpm

STORE, KEY = bytes(range(16)), bytes(range(32))
FIRST, SECOND, THIRD = (bytes([one]) * 32 for one in (1, 2, 3))
pytestmark = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None, reason="no swtpm: apt-get install swtpm swtpm-tools"
)


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> SoftwareTpm:
    return make_tpm(tmp_path_factory.mktemp("tpm"))


@pytest.fixture
def client(tpm: SoftwareTpm) -> Iterator[TpmClient]:
    with tpm.client() as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "anchor"


def reopen(path: Path, client: TpmClient, **changes: bytes) -> Anchored:
    """Open the anchor as a CAS does at its start, and close it."""
    anchor = TpmAnchor(path, changes.get("store", STORE), changes.get("key", KEY), TpmCounter(client))
    anchor.close()
    return anchor.read()


def test_anchor_when_advanced_and_opened_again_then_has_the_newest_state(
    path: Path, client: TpmClient
) -> None:
    anchor = TpmAnchor.create(path, STORE, FIRST, KEY, TpmCounter(client))
    assert anchor.read() == Anchored(0, FIRST)
    anchor.advance(1, SECOND)
    anchor.advance(2, THIRD)
    anchor.close()
    for _ in range(3):
        assert reopen(path, client) == Anchored(2, THIRD)


def test_anchor_when_the_tpm_was_reset_then_still_there(path: Path, tpm: SoftwareTpm) -> None:
    with tpm.client() as client:
        anchor = TpmAnchor.create(path, STORE, FIRST, KEY, TpmCounter(client))
        anchor.advance(1, SECOND)
        anchor.close()
    with tpm.client() as client:
        assert reopen(path, client) == Anchored(1, SECOND)


def test_anchor_when_any_older_file_is_put_back_then_refused(path: Path, client: TpmClient) -> None:
    anchor = TpmAnchor.create(path, STORE, FIRST, KEY, TpmCounter(client))
    older = [path.read_bytes()]
    for counter, digest in ((1, SECOND), (2, THIRD), (3, FIRST)):
        anchor.advance(counter, digest)
        older.append(path.read_bytes())
    anchor.close()
    newest = older.pop()
    for content in older:
        path.write_bytes(content)
        with pytest.raises(CasRollbackError, match="an older file was put back"):
            reopen(path, client)
    path.write_bytes(newest)
    assert reopen(path, client) == Anchored(3, FIRST)


def test_anchor_when_a_crash_came_before_the_tpm_counted_then_the_lost_state_cannot_come_back(
    path: Path, client: TpmClient
) -> None:
    counter = TpmCounter(client)
    anchor = TpmAnchor.create(path, STORE, FIRST, KEY, counter)

    class Crash(Exception):  # noqa: N818 - it is one
        pass

    def crash() -> int:
        raise Crash

    counter.increment = crash  # type: ignore[method-assign]
    with pytest.raises(Crash):
        anchor.advance(1, SECOND)
    anchor.close()
    lost = path.read_bytes()
    assert reopen(path, client) == Anchored(0, FIRST)
    anchor = TpmAnchor(path, STORE, KEY, TpmCounter(client))
    anchor.advance(1, THIRD)
    anchor.close()
    path.write_bytes(lost)
    with pytest.raises(CasRollbackError, match="an older file was put back"):
        reopen(path, client)


def test_anchor_when_forged_or_of_another_store_or_key_then_refused(path: Path, client: TpmClient) -> None:
    TpmAnchor.create(path, STORE, FIRST, KEY, TpmCounter(client)).close()
    good = path.read_bytes()
    for changes in ({"store": bytes(16)}, {"key": bytes(32)}):
        with pytest.raises(CasRollbackError, match="belongs to another CAS"):
            reopen(path, client, **changes)
    changed = bytearray(good)
    for offset in (48, 4096 + 48):
        changed[offset] ^= 1
    path.write_bytes(bytes(changed))
    with pytest.raises(CasRollbackError, match="has no state for the TPM's counter"):
        reopen(path, client)


def test_anchor_when_another_process_counts_then_the_next_advance_is_refused(
    path: Path, client: TpmClient
) -> None:
    anchor = TpmAnchor.create(path, STORE, FIRST, KEY, TpmCounter(client))
    TpmCounter(client).increment()
    with pytest.raises(CasStateError, match=r"the TPM's counter is \d+, expected"):
        anchor.advance(1, SECOND)
    with pytest.raises(CasStateError, match="is at 0 and was asked for 2"):
        anchor.advance(2, SECOND)
    anchor.close()


def test_anchor_when_file_or_counter_is_missing_then_refused(path: Path, client: TpmClient) -> None:
    counter = TpmCounter(client)
    with pytest.raises(CasStateError, match="cannot be opened: No such file"):
        TpmAnchor(path, STORE, KEY, counter)
    TpmAnchor.create(path, STORE, FIRST, KEY, counter).close()
    with pytest.raises(CasStateError, match="cannot be created: File exists"):
        TpmAnchor.create(path, STORE, FIRST, KEY, counter)
    counter.remove()
    with pytest.raises(CasStateError, match="the TPM refused NV_Read"):
        TpmAnchor(path, STORE, KEY, counter)
    counter.define()
    with pytest.raises(CasRollbackError, match="has no state for the TPM's counter"):
        TpmAnchor(path, STORE, KEY, counter)
