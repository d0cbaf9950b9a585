"""Evidence that is bound to its TLS session: on that connection it counts, and on no other."""

import pytest
from msgspec import structs

from securetf.appraisal import ear
from securetf.cas.service import Connection
from securetf.errors import BindingError, NonceError
from securetf.evidence import binding
from securetf.wire import CasEvidenceRequest

from .conftest import SESSION, Cas, Workload


def connection(number: int) -> Connection:
    """A connection whose exporter is a number under the label of attestation, and another under others."""
    return Connection(lambda label: bytes([number, label == binding.EXPORTER_LABEL]) * 16)


HERE, ELSEWHERE = connection(1), connection(2)


def said(cas: Cas, workload: Workload) -> ear.Binding:
    key = cas.context.identity.token_key.public_key()
    domain = cas.context.identity.spki_sha256
    return ear.check_insecure_simulation(
        workload.response.token,
        keys={ear.key_id(key): key},
        issuer=f"securetf-cas:{domain}",
        audience=f"securetf-session:{SESSION}",
        nonce=None,
        now=cas.clock.now(),
    ).binding


def demanding(cas: Cas) -> None:
    """Have the Manifest demand it."""
    cas.update(appraisal='binding = "session"')


def test_attestation_when_bound_to_its_connection_then_the_token_says_session(packed: Cas) -> None:
    workload = Workload()
    request = packed.attest_request(workload, connection=HERE)
    packed.send(workload, request, HERE)  # opens the Provision under the exporter, too
    assert said(packed, workload) is ear.Binding.SESSION


def test_attestation_when_bound_to_keys_then_the_token_says_key(packed: Cas) -> None:
    assert said(packed, packed.attest()) is ear.Binding.KEY


def test_attestation_when_relayed_over_another_connection_then_refused(packed: Cas) -> None:
    workload = Workload()
    request = packed.attest_request(workload, connection=HERE)
    with pytest.raises(NonceError, match="was not issued for trainer of acme/digits over this connection"):
        packed.send(workload, request, ELSEWHERE)
    packed.send(workload, request, HERE)  # and the nonce was not spent by the relay


def test_evidence_when_a_relay_got_the_nonce_on_its_own_connection_then_refused(packed: Cas) -> None:
    """The relay terminates TLS on both sides: the victim binds its exporter, the CAS sees the relay's."""
    nonce = packed.attest_request(Workload(), connection=ELSEWHERE).nonce
    workload = Workload()
    request = packed.attest_request(workload, connection=HERE, nonce=nonce)
    with pytest.raises(BindingError, match="report data"):
        packed.send(workload, request, ELSEWHERE)


def test_evidence_when_it_says_session_and_binds_no_exporter_then_refused(packed: Cas) -> None:
    nonce = packed.attest_request(Workload(), connection=HERE).nonce
    workload = Workload()
    request = packed.attest_request(workload, nonce=nonce)
    with pytest.raises(BindingError, match="report data"):
        packed.send(workload, structs.replace(request, binding="session"), HERE)


def test_nonce_when_issued_for_the_other_binding_then_refused(packed: Cas) -> None:
    workload = Workload()
    request = packed.attest_request(workload, connection=HERE)
    with pytest.raises(NonceError, match="was not issued"):
        packed.send(workload, structs.replace(request, binding="key"), HERE)
    request = packed.attest_request(workload)
    with pytest.raises(NonceError, match="over this connection"):
        packed.send(workload, structs.replace(request, binding="session"), HERE)


def test_session_when_the_connection_has_no_exporter_then_refused(packed: Cas) -> None:
    workload = Workload()
    request = packed.attest_request(workload, connection=HERE)
    with pytest.raises(BindingError, match="its connection has no TLS exporter"):
        packed.send(workload, request)


def test_session_when_the_manifest_demands_it_and_keys_alone_are_bound_then_refused(packed: Cas) -> None:
    demanding(packed)
    with pytest.raises(BindingError, match="demands `binding: session`, the attestation binds keys alone"):
        packed.attest()
    entry = packed.audit()[-1]
    assert (entry["action"], entry["verdict"], entry["code"]) == ("attest", "refused", "STF-1207")
    workload = Workload()
    packed.send(workload, packed.attest_request(workload, connection=HERE), HERE)
    assert said(packed, workload) is ear.Binding.SESSION


def test_evidence_of_the_cas_when_session_is_asked_for_binds_the_exporter_of_that_connection(
    cas: Cas,
) -> None:
    def evidence(how: str, over: Connection) -> bytes:
        return cas.service.evidence(CasEvidenceRequest(nonce=b"n" * 32, binding=how), over).evidence  # type: ignore[arg-type]

    identity = cas.context.identity
    for how, over, exporter in (
        ("key", HERE, None),
        ("session", HERE, HERE.exporter("session")),
        ("session", ELSEWHERE, ELSEWHERE.exporter("session")),
    ):
        expected = binding.report_data(
            role=binding.Role.CAS,
            nonce=b"n" * 32,
            tls_spki=identity.spki,
            hpke_public_key=identity.hpke_key.public + identity.audit_public_key,
            cas_spki=identity.spki,
            exporter=exporter,
            manifest_hash=None,
        )
        assert expected in evidence(how, over)
