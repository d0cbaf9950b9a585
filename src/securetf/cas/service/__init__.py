"""The service behind the wire: decides, keeps, records. Knows no HTTP and no SQL."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetf import __version__
from securetf.cas.service.access import Owners
from securetf.cas.service.attestation import Attestation
from securetf.cas.service.audit import AuditLog
from securetf.cas.service.connection import NO_EXPORTER, Connection
from securetf.cas.service.context import Clock, Context
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.identity import CasIdentity, load_or_create
from securetf.cas.service.members import Members
from securetf.cas.service.rekeying import Rekeying
from securetf.cas.service.restoring import Restoring
from securetf.cas.service.secrets import Secrets
from securetf.cas.service.sessions import Sessions
from securetf.cas.service.tpm import Tpms
from securetf.cas.service.volumes import Volumes
from securetf.evidence import binding
from securetf.wire import CasEvidenceRequest, CasEvidenceResponse, StatusResponse, TokenKey
from securetf.wire.statement import token_key_text

__all__ = ["AuditDraft", "CasIdentity", "CasService", "Clock", "Connection", "Context", "load_or_create"]


@dataclass(frozen=True, slots=True)
class CasService:
    """All that a CAS does, by who asks for it."""

    context: Context
    owners: Owners
    sessions: Sessions
    volumes: Volumes
    rekeying: Rekeying
    restoring: Restoring
    secrets: Secrets
    attestation: Attestation
    members: Members
    audit: AuditLog
    tpms: Tpms

    @classmethod
    def of(cls, context: Context) -> "CasService":
        """Put the parts together."""
        return cls(
            context=context,
            owners=Owners(context),
            sessions=Sessions(context),
            volumes=Volumes(context),
            rekeying=Rekeying(context),
            restoring=Restoring(context),
            secrets=Secrets(context),
            attestation=Attestation(context),
            members=Members(context),
            audit=AuditLog(context),
            tpms=Tpms(context, context.tpm_trust, context.own_tpm),
        )

    def status(self) -> StatusResponse:
        """Say that the CAS is ready, and what it is."""
        context = self.context
        return StatusResponse(
            status="ready",
            version=__version__,
            simulated=context.simulated,
            platform=context.attester.platform.value,
            spki_sha256=context.identity.spki_sha256,
        )

    def keys(self) -> TokenKey:
        """Return the key that tokens are signed with, vouched for by the audit key."""
        identity = self.context.identity
        spki = identity.token_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        text = token_key_text(identity.spki_sha256, spki)
        return TokenKey(spki=spki, signature=identity.audit_key.sign(text))

    def evidence(
        self, request: CasEvidenceRequest, connection: Connection = NO_EXPORTER
    ) -> CasEvidenceResponse:
        """Return the CAS's own Evidence for a caller's nonce. Raises AttesterError, BindingError."""
        context, identity = self.context, self.context.identity
        report_data = binding.report_data(
            role=binding.Role.CAS,
            nonce=request.nonce,
            tls_spki=identity.spki,
            hpke_public_key=identity.hpke_key.public + identity.audit_public_key,
            cas_spki=identity.spki,
            exporter=connection.exporter(request.binding),
            manifest_hash=None,
        )
        evidence = context.attester.attest(report_data)
        return CasEvidenceResponse(
            platform=evidence.platform.value,
            evidence=evidence.raw,
            tls_spki=identity.spki,
            hpke_public_key=identity.hpke_key.public,
            audit_public_key=identity.audit_public_key,
            endorsements=context.endorsements(),
            submods={one.platform.value: one.raw for one in evidence.others},
        )
