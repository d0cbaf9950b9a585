"""Verifies receipts offline, as a list of named checks. Pure. docs/formats/receipt-v1.md, "Checking"."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from securetf.appraisal import ear
from securetf.appraisal.ear import EarClaims
from securetf.claims import MEASUREMENT_REGISTERS, Platform
from securetf.client import legs
from securetf.client.audited import Attested, AuditExport
from securetf.client.observation import Observation, read_statement
from securetf.client.policy import ClientPolicy
from securetf.client.verdict import Check, Checklist, Status
from securetf.errors import MeasurementError, SimulationRefusedError
from securetf.identity import SpiffeId
from securetf.keys.workload import public_key, thumbprint
from securetf.receipt import CLOCK_SKEW_S, Receipt, ear_digest, read_receipt, verify_receipt
from securetf.service_errors import ReceiptError
from securetf.wire.statement import check_token_key

_FIX = "treat the answer as not given by this service"
_EAR_LIFETIME_S = ear.LIFETIME.total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proofs:
    """What a receipt is held against. observation: what `securetf verify --save` kept. audit: lines of an
    export. request, response: the bodies. Each may be None; without observation and audit nothing holds."""

    observation: Observation | None = None
    audit: Sequence[str] | None = None
    request: bytes | None = None
    response: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptVerdict:
    """checks: all, in order. receipt: what it says; believe it only if `ok`. simulated: policy admits it."""

    checks: tuple[Check, ...]
    receipt: Receipt | None
    simulated: bool

    @property
    def ok(self) -> bool:
        """True if there are checks and all of them hold."""
        return bool(self.checks) and all(one.status is Status.PASS for one in self.checks)

    def require(self) -> Receipt:
        """Return the receipt. Raises ReceiptError with all failed checks."""
        if self.receipt is None or not self.ok:
            failed = [f"{one.name}: {one.found}" for one in self.checks if one.status is Status.FAIL]
            raise ReceiptError(f"the receipt does not hold: {'; '.join(failed)}", _FIX)
        return self.receipt


def verify(token: str, policy: ClientPolicy, proofs: Proofs) -> ReceiptVerdict:
    """Check a receipt (compact JWS) against a policy and whatever proofs there are. Never raises."""
    checks = Checklist()
    receipt = checks.run("form", "the receipt has the form of its version", lambda: _form(token))
    if receipt is not None:
        _Verification(checks, token, receipt, policy, proofs).run()
    return ReceiptVerdict(checks=tuple(checks.checks), receipt=receipt, simulated=policy.simulation_accepted)


class _Verification:
    """The checks of one receipt."""

    def __init__(
        self, checks: Checklist, token: str, receipt: Receipt, policy: ClientPolicy, proofs: Proofs
    ) -> None:
        self.checks, self.token, self.receipt = checks, token, receipt
        self.policy, self.proofs = policy, proofs

    def run(self) -> None:
        """Do all checks that there are proofs for."""
        run, proofs = self.checks.run, self.proofs
        run("policy", "the policy was in force", self._in_force)
        export = None
        if proofs.audit is not None:
            export = run(
                "audit", "the export of the audit log is whole and signed by the pinned CAS", self._export
            )
        self._attestations(export)
        run("signatures", "the attested key delegated, and the delegated key signed", self._signatures)
        run("service", "session, workload and Manifest are accepted", self._service)
        run("model", "the model's volume and root are accepted", self._model)
        if proofs.request is not None:
            run(
                "request",
                "it is about this request",
                lambda: _body(proofs.request, self.receipt.request_sha256),
            )
        if proofs.response is not None:
            run(
                "response",
                "it is about this response",
                lambda: _body(proofs.response, self.receipt.response_sha256),
            )
        if proofs.audit is not None and self.receipt.model.volume:
            run(
                "lineage",
                "who committed the model's root",
                lambda: self._lineage(export),
                export is not None,
            )

    def _attestations(self, export: AuditExport | None) -> None:
        """That the key which signed is attested: by a token, by the audit log, or by both."""
        run, proofs = self.checks.run, self.proofs
        if proofs.observation is not None:
            token = run(
                "attestation",
                "the pinned CAS attested the key: saved token",
                lambda: self._saved(proofs.observation),
            )
            run("measurement", "its software is accepted", lambda: self._measured(token), token is not None)
        if proofs.audit is not None:
            found = run(
                "audited-attestation",
                "the pinned CAS attested the key: audit log",
                lambda: self._audited(export),
                export is not None,
            )
            run(
                "audited-measurement",
                "the software that it recorded is accepted",
                lambda: self._recorded(found),
                found is not None,
            )
        if proofs.observation is None and proofs.audit is None:
            run("attestation", "the pinned CAS attested the key", self._nothing)

    def _nothing(self) -> tuple[str, bool]:
        raise ReceiptError("nothing was given that shows it", "give --statement, --audit or both")

    def _in_force(self) -> tuple[str, bool]:
        signed = datetime.fromtimestamp(self.receipt.iat, UTC)
        if self.policy.expires is not None and signed >= self.policy.expires:
            raise ReceiptError(f"it had expired when the receipt was signed, {signed:%F %T} UTC", _FIX)
        return f"signed {signed:%F %T} UTC", True

    def _export(self) -> tuple[str, AuditExport]:
        cas = self.policy.cas
        export = AuditExport(self.proofs.audit or [], cas=cas.spki_sha256, public_key=cas.audit_public_key)
        return f"{export.summary.length} entries, signed {export.summary.time}", export

    def _saved(self, observation: Observation | None) -> tuple[str, EarClaims]:
        if observation is None:
            raise AssertionError("checked by the caller")
        statement, cas, receipt = read_statement(observation.statement), self.policy.cas, self.receipt
        key = check_token_key(
            statement.cas.token_key, cas=cas.spki_sha256, audit_public_key=cas.audit_public_key
        )
        token = ear.authenticate(statement.ear, keys={ear.key_id(key): key})
        expected = SpiffeId(cas.spki_sha256, receipt.session, receipt.workload, receipt.instance)
        if token.issuer != f"securetf-cas:{cas.spki_sha256}" or token.subject != str(expected):
            raise ReceiptError(
                f"the saved token is about {token.subject}, the receipt is of {expected}", _FIX
            )
        if legs.attested_key(token) != public_key(receipt.attested_key):
            raise ReceiptError("the saved token is about another attested key", "save the statement anew")
        if token.token_id != receipt.ear_jti:
            return f"jti {token.token_id}, another token of the same key than the receipt's", token
        if ear_digest(statement.ear) != receipt.ear_sha256:
            raise ReceiptError("the saved token has the receipt's jti and another digest", _FIX)
        self._window(token.issued_at.timestamp())
        return f"jti {token.token_id}, the very token of the receipt", token

    def _audited(self, export: AuditExport | None) -> tuple[str, Attested]:
        if export is None:
            raise AssertionError("checked by the caller")
        receipt = self.receipt
        actor = f"p256:{thumbprint(public_key(receipt.attested_key))}"
        found = export.attestation(actor, jti=receipt.ear_jti)
        said = (found.session, found.workload, found.instance, found.manifest_hash)
        claimed = (receipt.session, receipt.workload, receipt.instance, receipt.manifest_hash)
        if said != claimed or found.ear_sha256 != receipt.ear_sha256:
            raise ReceiptError(f"entry {found.seq} of the audit log tells of {said}, not of {claimed}", _FIX)
        self._window(found.time_s)
        return f"entry {found.seq}, jti {found.ear_jti}", found

    def _window(self, issued_s: float) -> None:
        """The receipt was signed while its token was in force."""
        if not issued_s - CLOCK_SKEW_S <= self.receipt.iat <= issued_s + _EAR_LIFETIME_S + CLOCK_SKEW_S:
            raise ReceiptError(
                f"it was signed at {self.receipt.iat}, its token at {int(issued_s)}, good for 5 minutes",
                _FIX,
            )

    def _measured(self, token: EarClaims | None) -> tuple[str, object]:
        if token is None:
            raise AssertionError("checked by the caller")
        self._hardware(simulated=token.simulated)
        return legs.measurement(self.policy, token)

    def _recorded(self, found: Attested | None) -> tuple[str, bool]:
        """The log holds the one register that tells which software was started."""
        if found is None:
            raise AssertionError("checked by the caller")
        self._hardware(simulated=found.simulated)
        policy = self.policy.platforms.get(found.platform)
        accepted: Sequence[str] = ()
        if policy is not None:
            register = MEASUREMENT_REGISTERS[Platform(found.platform)]
            accepted = getattr(policy, register, None) or getattr(policy, "pcrs", {}).get(register, ())
        if found.measurement not in accepted:
            shown = " or ".join(accepted) or "nothing of this platform"
            raise MeasurementError(f"{found.platform} {found.measurement}, expected {shown}", _FIX)
        return f"{found.platform}, measurement {found.measurement}", True

    def _hardware(self, *, simulated: bool) -> None:
        if simulated and not self.policy.simulation_accepted:
            raise SimulationRefusedError("an INSECURE SIMULATION, and the policy is for hardware", _FIX)

    def _signatures(self) -> tuple[str, bool]:
        _, delegation = verify_receipt(self.token, public_key(self.receipt.attested_key))
        return f"delegated from {delegation.iat} until {delegation.exp}", True

    def _service(self) -> tuple[str, bool]:
        receipt, service = self.receipt, self.policy.service
        wrong = []
        if (receipt.session, receipt.workload) != (service.session, service.workload):
            wrong.append(
                f"{receipt.workload} of {receipt.session}, expected {service.workload} of {service.session}"
            )
        if service.manifest_hashes and receipt.manifest_hash not in service.manifest_hashes:
            wrong.append(f"{receipt.manifest_hash}, accepted: {', '.join(service.manifest_hashes)}")
        if wrong:
            raise ReceiptError("; ".join(wrong), _FIX)
        return f"{receipt.workload}/{receipt.instance} of {receipt.session}, {receipt.manifest_hash}", True

    def _model(self) -> tuple[str, bool]:
        model = self.receipt.model
        named = self.policy.service.volumes
        pins, wrong = named.get(model.volume), []
        if named and pins is None:
            where = f"in {model.volume}" if model.volume else "in no volume"
            wrong.append(f"{model.name} was {where}, accepted: {', '.join(sorted(named))}")
        if pins is not None and pins.roots and model.volume_root not in pins.roots:
            wrong.append(
                f"{model.volume} has the root {model.volume_root}, accepted: {', '.join(pins.roots)}"
            )
        if pins is not None and model.volume_epoch < pins.minimum_epoch:
            wrong.append(
                f"{model.volume} is in epoch {model.volume_epoch}, accepted from {pins.minimum_epoch} on"
            )
        if wrong:
            raise ReceiptError("; ".join(wrong), _FIX)
        where = f"volume {model.volume}, root {model.volume_root}" if model.volume else "in no volume"
        free = "" if pins is not None and pins.roots else " (the policy names no root)"
        return f"{model.name} version {model.version}, sha256 {model.sha256}, {where}{free}", True

    def _lineage(self, export: AuditExport | None) -> tuple[str, bool]:
        """The model's writer and, if it was a workload, its own attestation."""
        if export is None:
            raise AssertionError("checked by the caller")
        model = self.receipt.model
        commit = export.commit(self.receipt.session, model.volume, model.volume_root)
        if not commit.actor.startswith("p256:"):
            return f"entry {commit.seq}: the owner {commit.actor} packed it", True
        writer = export.attestation(commit.actor, before=commit.seq)
        self._hardware(simulated=writer.simulated)
        return (
            f"entry {commit.seq}: {writer.workload}/{writer.instance}, attested in entry {writer.seq} on "
            f"{writer.platform} with measurement {writer.measurement}, {writer.manifest_hash}, "
            f"jti {writer.ear_jti or 'not recorded'}",
            True,
        )


def _form(token: str) -> tuple[str, Receipt]:
    return "version 1", read_receipt(token)


def _body(body: bytes | None, expected: str) -> tuple[str, bool]:
    found = hashlib.sha256(body or b"").hexdigest()
    if found != expected:
        raise ReceiptError(f"the file has the SHA-256 {found}, the receipt says {expected}", _FIX)
    return found, True
