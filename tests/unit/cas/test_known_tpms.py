"""A CAS keeps of the TPMs that it has seen what depends on bytes alone, and decides anew each time."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.cas.hardware_verifiers import TpmRoots, tpm_verifier
from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements.cache import Cache
from securetf.endorsements.library import Library
from securetf.errors import SignatureError
from securetf.evidence import tcg_event_log, tpm2_quote
from securetf.verifier import tpm2_origin
from support.authority import NOW
from support.tpm2 import REPORT_DATA, Tpm, make_log, make_tpm

Verify = Callable[..., VerifiedClaims]


@pytest.fixture
def tpm() -> Tpm:
    return make_tpm()


@pytest.fixture
def verify(tpm: Tpm, tmp_path: Path) -> Verify:
    roots = TpmRoots.of(tpm.root.certificate.public_bytes(Encoding.PEM))
    verifier = tpm_verifier(Library(Cache(tmp_path), None), tpm_roots=roots)

    def run(raw: bytes, now: datetime = NOW) -> VerifiedClaims:
        return verifier.verify(Evidence(Platform.TPM2, raw), expected_report_data=REPORT_DATA, now=now)

    return run


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    done: list[int] = []
    replay = tcg_event_log.replay

    def counted(log: tcg_event_log.EventLog, bank: int) -> dict[int, bytes]:
        done.append(bank)
        return replay(log, bank)

    monkeypatch.setattr(tcg_event_log, "replay", counted)
    return done


def test_machine_when_it_attests_again_then_its_event_log_is_replayed_once(
    tpm: Tpm, verify: Verify, replays: list[int]
) -> None:
    raw = tpm.evidence()
    assert verify(raw) == verify(raw)
    assert len(replays) == 1


def test_log_when_altered_after_the_machine_was_seen_then_refused_each_time(
    tpm: Tpm, verify: Verify, replays: list[int]
) -> None:
    verify(tpm.evidence())
    other = tpm.evidence(event_log=tcg_event_log.encode(make_log(tpm2_quote.SHA256, count=11)))
    for _ in range(2):
        with pytest.raises(SignatureError, match="event log does not replay"):
            verify(other)
    verify(tpm.evidence())
    assert len(replays) == 2


def test_certificate_when_it_has_expired_since_then_refused_although_it_is_known(
    tpm: Tpm, verify: Verify
) -> None:
    raw = tpm.evidence()
    verify(raw)
    with pytest.raises(SignatureError, match="expired at"):
        verify(raw, NOW + timedelta(days=365))


def test_certificate_when_not_of_a_tpm_key_then_refused_each_time() -> None:
    known, stranger = tpm2_origin.KnownOrigins(), make_tpm(extensions=())
    for _ in range(2):
        with pytest.raises(SignatureError, match="is not of a TPM's attestation key"):
            known.check_purpose(stranger.certificate.certificate)
