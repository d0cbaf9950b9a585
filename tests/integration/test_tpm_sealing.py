"""Secrets sealed to a real software TPM: back only from the same TPM with the same PCRs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_sealing import seal, unseal
from securetf.errors import AttesterError
from securetf.evidence.tpm2_quote import SHA256
from support.swtpm import SoftwareTpm, make_tpm

SECRET = bytes(range(32))
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


def test_secret_when_sealed_then_given_back_also_after_a_reset(tpm: SoftwareTpm) -> None:
    with tpm.client() as client:
        blob = seal(client, SECRET, (7, 0))
        assert SECRET not in blob
        assert [unseal(client, blob) for _ in range(5)] == [SECRET] * 5  # nothing is left loaded
    with tpm.client() as client:
        assert unseal(client, blob) == SECRET


def test_secret_when_one_of_its_pcrs_changed_then_kept_by_the_tpm(client: TpmClient) -> None:
    blob = seal(client, SECRET, (0, 9))
    client.extend_pcr(8, SHA256, bytes(32))
    assert unseal(client, blob) == SECRET
    client.extend_pcr(9, SHA256, bytes(32))
    with pytest.raises(AttesterError, match=r"PCRs \[0, 9\] are not those of the time of sealing"):
        unseal(client, blob)


def test_secret_when_of_another_tpm_or_damaged_then_refused(client: TpmClient, tmp_path: Path) -> None:
    blob = seal(client, SECRET, (0,))
    with make_tpm(tmp_path / "other").client() as other, pytest.raises(AttesterError, match="another TPM"):
        unseal(other, blob)
    for damaged, reason in (
        (b"", "ends inside"),
        (b"x" + blob[1:], "does not start with STFSEAL"),
        (blob + b"\0", "after its end|trailing|bytes left"),
        (blob[:8] + b"\0\2\1\0" + blob[11:], "names no PCRs, or not in order"),
    ):
        with pytest.raises(AttesterError, match=reason):
            unseal(client, damaged)
    changed = bytearray(blob)
    changed[40] ^= 1
    with pytest.raises(AttesterError, match="another TPM"):
        unseal(client, bytes(changed))
