"""Enrolment of a real software TPM at the service: what is kept, for how long, and what is refused."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from msgspec import structs

from securetf.attester.tpm2 import Tpm2Attester
from securetf.attester.tpm_client import TpmClient
from securetf.cas.service import AuditDraft, CasService
from securetf.cas.service.tpm import KEYS_PER_TPM, LIFETIME_S, TpmTrust, enrolment_of
from securetf.cas_client.tpm_enrolment import keys_of
from securetf.errors import (
    BindingError,
    MalformedEvidenceError,
    NonceError,
    SignatureError,
    UnsupportedPlatformError,
)
from securetf.evidence import tpm2_public
from securetf.wire.tpm import (
    CasTpmRequest,
    TpmChallengeRequest,
    TpmChallengeResponse,
    TpmEnrolRequest,
    TpmEnrolResponse,
    TpmKeys,
)
from support.swtpm import SoftwareTpm, make_tpm

from .conftest import Cas

pytestmark = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None, reason="no swtpm: apt-get install swtpm swtpm-tools"
)


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> SoftwareTpm:
    return make_tpm(tmp_path_factory.mktemp("tpm"))


@pytest.fixture(scope="module")
def client(tpm: SoftwareTpm) -> Iterator[TpmClient]:
    with tpm.client() as client:
        yield client


@pytest.fixture(scope="module")
def attester(client: TpmClient) -> Tpm2Attester:
    return Tpm2Attester(client)


@dataclass
class Office:
    """A CAS that trusts the TPM's manufacturer, and the TPM's keys."""

    cas: Cas
    keys: TpmKeys

    def fields(self) -> dict[str, object]:
        return {name: getattr(self.keys, name) for name in TpmKeys.__struct_fields__}

    def challenge(self) -> TpmChallengeResponse:
        return self.cas.service.tpms.challenge(TpmChallengeRequest(**self.fields()))

    def enrol(self, ticket: bytes, secret: bytes) -> TpmEnrolResponse:
        request = TpmEnrolRequest(**self.fields(), ticket=ticket, secret=secret)
        return self.cas.service.tpms.enrol(request, AuditDraft(action="tpm.enrol"))


@pytest.fixture
def office(cas: Cas, tpm: SoftwareTpm, attester: Tpm2Attester) -> Office:
    cas.context = replace(cas.context, tpm_trust=TpmTrust(anchors=tpm.anchors))
    cas.service = CasService.of(cas.context)
    return Office(cas, keys_of(attester, tpm.authorities))


def test_key_when_its_tpm_answers_then_kept_over_a_restart_and_in_the_log(
    office: Office, attester: Tpm2Attester
) -> None:
    challenge = office.challenge()
    secret = attester.answer(challenge.credential, challenge.encrypted_seed)
    done = office.enrol(challenge.ticket, secret)
    assert done.ak_name == tpm2_public.name(attester.ak_public)
    entry = office.cas.audit()[-1]
    assert (entry["action"], entry["verdict"]) == ("tpm.enrol", "granted")
    assert entry["actor"] == f"tpm:{done.ek_sha256.hex()}"
    office.cas.restart()
    known = enrolment_of(office.cas.store, done.ak_name)
    assert known is not None
    assert (known.ek_sha256, known.name) == (done.ek_sha256, done.ak_name)
    assert enrolment_of(office.cas.store, bytes(34)) is None


def test_key_when_the_answer_is_wrong_late_or_for_another_cas_then_refused(
    office: Office, attester: Tpm2Attester
) -> None:
    challenge = office.challenge()
    secret = attester.answer(challenge.credential, challenge.encrypted_seed)
    with pytest.raises(BindingError, match="did not open the challenge"):
        office.enrol(challenge.ticket, bytes(32))
    with pytest.raises(BindingError, match="did not open the challenge"):
        office.enrol(challenge.ticket[:8] + bytes(8), secret)
    assert office.cas.audit()[-1]["verdict"] == "refused"
    office.cas.clock.turn(LIFETIME_S + 1)
    with pytest.raises(NonceError, match="older than 300 s"):
        office.enrol(challenge.ticket, secret)
    fresh = office.challenge()
    secret = attester.answer(fresh.credential, fresh.encrypted_seed)
    office.cas.service = CasService.of(office.cas.context)  # another process: another key
    with pytest.raises(BindingError, match="did not open the challenge"):
        office.enrol(fresh.ticket, secret)


def test_keys_when_not_of_a_trusted_tpm_then_no_challenge(office: Office) -> None:
    whole = office.keys
    office.keys = structs.replace(whole, ek_certificates=whole.ek_certificates[:1])
    with pytest.raises(SignatureError, match="has 1 certificates"):
        office.challenge()
    office.keys = structs.replace(whole, ek_public=whole.ak_public)
    with pytest.raises(SignatureError, match="another key than the endorsement key"):
        office.challenge()
    office.keys = structs.replace(whole, ak_public=whole.ak_public + b"\0")
    with pytest.raises(MalformedEvidenceError):
        office.challenge()
    office.cas.context = replace(office.cas.context, tpm_trust=None)
    office.cas.service = CasService.of(office.cas.context)
    with pytest.raises(UnsupportedPlatformError, match="trusts no manufacturer"):
        office.challenge()


def test_keys_when_more_than_a_tpm_may_have_then_the_oldest_gives_way(
    office: Office, client: TpmClient, tpm: SoftwareTpm
) -> None:
    names = []
    for _ in range(KEYS_PER_TPM + 1):
        with_key = Tpm2Attester(client)
        office.keys = keys_of(with_key, tpm.authorities)
        challenge = office.challenge()
        secret = with_key.answer(challenge.credential, challenge.encrypted_seed)
        names.append(office.enrol(challenge.ticket, secret).ak_name)
        client.flush(with_key._ak)
    kept = [enrolment_of(office.cas.store, name) is not None for name in names]
    assert kept == [False] + [True] * KEYS_PER_TPM


def test_cas_when_its_evidence_is_no_tpms_then_has_no_tpm_to_show(office: Office) -> None:
    with pytest.raises(UnsupportedPlatformError, match="does not come from a TPM"):
        office.cas.service.tpms.of_cas(CasTpmRequest())
