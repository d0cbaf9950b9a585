"""Secrets of kind `value`: imported by an owner, sealed to the CAS; no call ever returns one."""

from dataclasses import dataclass

from securetf.cas.service.access import OwnerRequest, require_update
from securetf.cas.service.context import Context
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.rows import SecretRow, find, put, secret_key, session_of
from securetf.cas.store import Transaction
from securetf.errors import ConflictError, LimitError, NotFoundError
from securetf.provisioning import open_secret, secret_transcript

MAX_SECRET_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Secrets:
    """What owners do with secrets: put them in."""

    context: Context

    def put(self, owner: OwnerRequest, draft: AuditDraft, session: str, name: str, sealed: bytes) -> None:
        """Store the value of a secret.

        Raises:
            NotFoundError, NotAuthorisedError: not this key's, or no such secret. ConflictError: a random one.
            UnsealError: not sealed to this CAS for this secret and key. LimitError: too large.
        """
        draft.session, draft.details = session, {"secret": name}
        identity = self.context.identity

        def operation(transaction: Transaction) -> None:
            row = session_of(transaction, session)
            require_update(self.context, row, owner.key_id)
            rule = self.context.manifest_of(row).secrets.get(name)
            if rule is None:
                raise NotFoundError(
                    f"{session} has no secret {name}", "add it under `[secrets]` of the Manifest"
                )
            if rule.kind != "value":
                raise ConflictError(
                    f"secret {name} of {session} is made by the CAS (kind {rule.kind})",
                    'set `kind = "value"` in a new version of the Manifest to import it',
                )
            transcript = secret_transcript(
                session=session, secret=name, key_id=owner.key_id, cas_spki=identity.spki
            )
            value = open_secret(sealed, identity.hpke_key, transcript)
            if not 0 < len(value) <= MAX_SECRET_BYTES:
                raise LimitError(
                    f"the secret has {len(value)} bytes, expected 1 to {MAX_SECRET_BYTES}",
                    "import a smaller value",
                )
            before = find(transaction, SecretRow, secret_key(session, name))
            version = 1 if before is None else before.version + 1
            put(transaction, secret_key(session, name), SecretRow(value=value, kind="value", version=version))

        self.context.decide(draft, operation, always=owner.consume)
