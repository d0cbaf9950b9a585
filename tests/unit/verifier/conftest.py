"""A development PKI and a kit around it: a test changes one thing and looks at the reason of the refusal."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

from securetf.attester import development_pki as pki
from securetf.attester.simulated_enclave import simulated_report
from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.trust import spki_digest
from securetf.evidence import tdx
from securetf.verifier.tdx import authenticate

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
REGISTER = bytes([7]) * 48


@dataclass(frozen=True)
class Kit:
    """A platform with its PKI. `verify` runs the production steps under the development root."""

    keys: pki.DevelopmentPki
    enclave: pki.QuotingEnclave
    endorsements: Endorsements

    @property
    def anchors(self) -> TrustAnchors:
        pins = frozenset({spki_digest(self.keys.root.certificate)})
        return TrustAnchors(spki_sha256=pins, development=True)

    def issue(self, *arguments: Any, **changes: Any) -> pki.Identity:
        """Issue what no real issuer would: the arguments of the development PKI's own function."""
        return pki._issue(*arguments, **changes)

    def sgx_extension(self) -> x509.UnrecognizedExtension:
        content = pki._pck_extension(bytes(16), bytes.fromhex(pki.FMSPC))
        return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), content)

    def body(self, **changes: bytes) -> tdx.TdReport:
        return replace(simulated_report(REPORT_DATA, mr_td=REGISTER, rtmr3=REGISTER), **changes)

    def quote(self, *, version: int = 4, **changes: bytes) -> bytes:
        return self.enclave.quote(self.body(**changes), version=version)

    def evidence(self) -> Evidence:
        return Evidence(Platform.INSECURE_SIMULATION, self.quote())

    def endorse(self, *, tcb: dict[str, Any] | None = None, qe: dict[str, Any] | None = None) -> Endorsements:
        """Collateral with some members of TCB info and QE identity changed, and signed."""
        return pki.endorse(
            self.keys, NOW, tcb=pki.tcb_info(NOW) | (tcb or {}), qe=pki.qe_identity(NOW) | (qe or {})
        )

    def verify(
        self,
        raw: bytes | None = None,
        *,
        endorsements: Endorsements | None = None,
        now: datetime = NOW,
        floor: int = 0,
        report_data: bytes = REPORT_DATA,
        anchors: TrustAnchors | None = None,
    ) -> VerifiedClaims:
        return authenticate(
            self.quote() if raw is None else raw,
            anchors=anchors or self.anchors,
            endorsements_for=lambda _: endorsements or self.endorsements,
            expected_report_data=report_data,
            minimum_tcb_evaluation=floor,
            now=now,
        )


@pytest.fixture(scope="session")
def make_kit() -> Callable[[], Kit]:
    """Return a maker of independent platforms."""

    def make() -> Kit:
        keys = pki.create(NOW, platform_id=bytes(range(16)))
        return Kit(keys, keys.quoting_enclave(), pki.endorse(keys, NOW))

    return make


@pytest.fixture(scope="session")
def kit(make_kit: Callable[[], Kit]) -> Kit:
    return make_kit()


@pytest.fixture
def now() -> datetime:
    return NOW
