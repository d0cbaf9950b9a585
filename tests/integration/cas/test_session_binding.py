"""A real CAS over real TLS: Evidence counts on the connection of its challenge, and on no other."""

import json
from typing import Any

from securetf import manifest as manifests
from securetf.appraisal import ear
from securetf.attester.insecure_simulation import SimulatedTdx
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasClient, CasTrust
from securetf.cas_client.membership import AttestedKeys, Who, attest_fields
from securetf.cas_client.transport import Line, Transport
from securetf.errors import BindingError, NonceError
from securetf.evidence.binding import EXPORTER_LABEL
from securetf.keys import OwnerKey
from securetf.keys.workload import WorkloadKey
from securetf.manifest import parse
from securetf.provisioning import HpkeKeyPair
from securetf.wire import AttestRequest, ChallengeRequest, ChallengeResponse, decode, encode
from securetf.wire.statement import check_token_key

from .conftest import Process

_MANIFEST = """
[session]
name = "{name}"
[appraisal.insecure_simulation]
mr_td = ["{mr_td}"]
[workloads.trainer]
command = ["true"]
"""
DEMANDING = '[appraisal]\nbinding = "session"\n'


class Attested:
    """One workload that attests step by step, over the connections that a test chooses."""

    def __init__(self, cas: Process, trust: CasTrust, name: str, *, demanding: bool) -> None:
        text = _MANIFEST.format(name=name, mr_td=software_measurement().hex())
        if demanding:
            text += DEMANDING
        with CasClient(trust) as client:
            client.create_session(text, OwnerKey.generate())
        self.text, self.name, self.cas, self.trust = text, name, cas, trust
        self.keys = AttestedKeys(WorkloadKey.generate(), HpkeKeyPair.generate())
        self.transport = Transport(trust.url, trust.spki_sha256, deadline_s=20)

    def nonce(self, line: Line, binding: Any) -> bytes:
        asked = ChallengeRequest(session=self.name, workload="trainer", binding=binding)
        status, raw = self.post(line, "/v1/challenge", encode(asked))
        assert status == 200, raw
        return decode(raw, ChallengeResponse).nonce

    def request(self, nonce: bytes, exporter: bytes | None) -> bytes:
        who = Who(self.name, "trainer", 0, manifests.manifest_hash(parse(self.text)))
        fields, _ = attest_fields(
            who,
            self.keys,
            SimulatedTdx(self.cas.platform, {}),
            nonce=nonce,
            cas_spki=self.transport.seen_spki,
            exporter=exporter,
            network_spki=None,
            endpoint=None,
        )
        return encode(AttestRequest(**fields))

    def post(self, line: Line, target: str, body: bytes) -> tuple[int, bytes]:
        return self.transport.send("POST", target, body, {}, repeatable=False, over=line)


def refused(answer: tuple[int, bytes], error: type[Exception], words: str) -> None:
    status, raw = answer
    document = json.loads(raw)
    assert (status, document["code"]) == (403, error.code)  # type: ignore[attr-defined]
    assert words in document["problem"]


def test_evidence_when_it_comes_over_the_connection_of_its_challenge_then_granted_once(
    cas: Process, trust: CasTrust
) -> None:
    one = Attested(cas, trust, "acme/bound", demanding=True)
    with one.transport.line() as line:
        body = one.request(one.nonce(line, "session"), line.exporter(EXPORTER_LABEL))
        status, raw = one.post(line, "/v1/attest", body)
        assert status == 200, raw
        refused(one.post(line, "/v1/attest", body), NonceError, "was used before")


def test_evidence_when_relayed_over_another_connection_then_refused(cas: Process, trust: CasTrust) -> None:
    one = Attested(cas, trust, "acme/relayed", demanding=False)
    with one.transport.line() as line, one.transport.line() as relay:
        theirs = one.nonce(relay, "session")
        body = one.request(one.nonce(line, "session"), line.exporter(EXPORTER_LABEL))
        assert line.exporter(EXPORTER_LABEL) != relay.exporter(EXPORTER_LABEL)
        refused(one.post(relay, "/v1/attest", body), NonceError, "over this connection")
        # A relay that hands on its own challenge gets Evidence with the victim's exporter in it.
        body = one.request(theirs, line.exporter(EXPORTER_LABEL))
        refused(one.post(relay, "/v1/attest", body), BindingError, "report data")


def test_evidence_when_session_is_demanded_and_only_keys_are_bound_then_refused(
    cas: Process, trust: CasTrust
) -> None:
    one = Attested(cas, trust, "acme/keys", demanding=True)
    with one.transport.line() as line:
        body = one.request(one.nonce(line, "key"), None)
        refused(one.post(line, "/v1/attest", body), BindingError, "demands `binding: session`")


def test_tokens_of_our_client_when_read_say_session(cas: Process, trust: CasTrust) -> None:
    one = Attested(cas, trust, "acme/said", demanding=True)
    attester = SimulatedTdx(cas.platform, {})
    with CasClient(trust) as client:
        audit_key = bytes.fromhex(trust.audit_public_key)
        key = check_token_key(client.prove_cas().token_key, cas=trust.spki_sha256, audit_public_key=audit_key)
        first, _ = client.provision("acme/said", "trainer", parse(one.text), attester)
        later = client.refresh("acme/said", parse(one.text), attester)
    for token in (first, later):
        claims = ear.authenticate(token, keys={ear.key_id(key): key})
        assert claims.binding is ear.Binding.SESSION
