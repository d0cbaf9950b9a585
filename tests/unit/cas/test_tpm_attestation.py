"""A machine with a real software TPM attests to a CAS: enrolled, quoted, appraised by its PCRs,
provisioned.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from securetf import manifest as manifests
from securetf.attester.tpm2 import Tpm2Attester
from securetf.attester.tpm_client import TpmClient
from securetf.cas.service import CasService
from securetf.claims import Platform
from securetf.endorsements.tpm import KnownAk
from securetf.errors import (
    BindingError,
    MeasurementError,
    NonceError,
    PlatformNotAllowedError,
    SignatureError,
)
from securetf.evidence import binding
from securetf.evidence.tpm2_quote import SHA256
from securetf.verifier import tpm2_activation
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins
from securetf.wire import AttestRequest, ChallengeRequest
from support.authority import issue
from support.swtpm import SoftwareTpm, make_tpm

from .conftest import SESSION, Cas, Workload

SECRET = bytes(range(32))
pytestmark = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None, reason="no swtpm: apt-get install swtpm swtpm-tools"
)


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> SoftwareTpm:
    return make_tpm(tmp_path_factory.mktemp("tpm"))


@dataclass
class Machine:
    """A CAS that knows one machine's TPM, and that machine."""

    cas: Cas
    client: TpmClient
    attester: Tpm2Attester
    enrolled: dict[bytes, KnownAk] = field(default_factory=dict)

    def manifest(self, **pcrs: str) -> str:
        rows = "\n".join(f'{name} = ["{value}"]' for name, value in pcrs.items())
        return self.cas.manifest(appraisal__insecure_simulation="-", appraisal__tpm2__pcrs=rows)

    def pcr(self, index: int) -> str:
        return self.client.read_pcrs(SHA256, [index])[index].hex()

    def request(self, workload: Workload, **changes: Any) -> AttestRequest:
        service = self.cas.service
        challenge = service.attestation.challenge(ChallengeRequest(session=SESSION, workload="trainer"))
        fields: dict[str, Any] = {
            "nonce": challenge.nonce,
            "tls_spki": workload.tls.spki,
            "hpke_public_key": workload.hpke.public,
            "manifest_hash": manifests.manifest_hash(manifests.parse(self.cas.read().manifest)),
        }
        report_data = binding.report_data(
            role=binding.Role.WORKLOAD, cas_spki=self.cas.context.identity.spki, exporter=None, **fields
        )
        evidence = self.attester.attest(report_data)
        values = {"session": SESSION, "workload": "trainer", "platform": "tpm2", "evidence": evidence.raw}
        return AttestRequest(**values | fields | changes)


@pytest.fixture
def machine(cas: Cas, tpm: SoftwareTpm) -> Iterator[Machine]:
    with tpm.client() as client:
        attester = Tpm2Attester(client, pcrs=range(16))
        certificate = attester.ek_certificate()
        assert certificate is not None
        ek = tpm2_activation.check_ek(
            attester.ek_public, [certificate, *tpm.authorities], anchors=tpm.anchors, now=datetime.now(UTC)
        )
        challenge = tpm2_activation.challenge(
            ek, attester.ak_public, secret=SECRET, seed=os.urandom(32), ephemeral=None
        )
        answer = attester.answer(challenge.credential, challenge.encrypted_seed)
        known = tpm2_activation.enrol(ek, attester.ak_public, secret=SECRET, answer=answer)
        machine = Machine(cas, client, attester, {known.name: known})
        origins = KeyOrigins(issue("nobody").anchors, machine.enrolled.get)
        verifiers = {**cas.context.verifiers, Platform.TPM2: Tpm2Verifier(origins, event_log_required=False)}
        cas.context = replace(cas.context, verifiers=verifiers)
        cas.service = CasService.of(cas.context)
        yield machine


def test_machine_when_its_pcrs_are_those_of_the_manifest_then_gets_its_provision(machine: Machine) -> None:
    machine.cas.create(machine.manifest(pcr0=machine.pcr(0), pcr9=machine.pcr(9)))
    machine.cas.pack()
    workload = Workload()
    got = machine.cas.send(workload, machine.request(workload))
    assert got.provision is not None
    assert len(got.provision.secrets["token"]) == 32
    entry = machine.cas.audit()[-1]
    assert (entry["action"], entry["measurement"]) == ("attest", machine.pcr(4))


def test_machine_when_a_pcr_changed_since_then_refused_until_the_owner_accepts_it(machine: Machine) -> None:
    machine.cas.create(machine.manifest(pcr0=machine.pcr(0), pcr9=machine.pcr(9)))
    machine.cas.pack()
    machine.client.extend_pcr(9, SHA256, b"\1" * 32)
    workload = Workload()
    with pytest.raises(MeasurementError, match=f"pcr9 is {machine.pcr(9)}"):
        machine.cas.send(workload, machine.request(workload))


def test_machine_when_not_enrolled_replayed_or_relabelled_then_refused(machine: Machine) -> None:
    machine.cas.create(machine.manifest(pcr0=machine.pcr(0)))
    machine.cas.pack()
    workload = Workload()
    request = machine.request(workload)
    machine.cas.send(workload, request)
    with pytest.raises(NonceError):
        machine.cas.send(workload, request)
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        machine.cas.send(workload, machine.request(workload, evidence=request.evidence))
    with pytest.raises(PlatformNotAllowedError):
        machine.cas.send(workload, machine.request(workload, platform="insecure_simulation"))
    machine.enrolled.clear()
    with pytest.raises(SignatureError, match="neither certified nor enrolled"):
        machine.cas.send(workload, machine.request(workload))


def test_simulated_machine_when_the_manifest_names_only_the_tpm_then_refused(machine: Machine) -> None:
    machine.cas.create(machine.manifest(pcr0=machine.pcr(0)))
    machine.cas.pack()
    with pytest.raises(PlatformNotAllowedError, match="insecure_simulation"):
        machine.cas.attest()
