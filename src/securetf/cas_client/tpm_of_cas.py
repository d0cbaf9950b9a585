"""A CAS whose Evidence is a TPM's shows whose TPM that is: its client challenges it as a CAS its machines."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import Issuers
from securetf.errors import CasProtocolError
from securetf.evidence import tpm2_public
from securetf.verifier import Verifier, tpm2_activation
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins
from securetf.wire.tpm import CasTpmRequest, CasTpmResponse

Ask = Callable[[CasTpmRequest], CasTpmResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmIssuers:
    """Whose TPMs the caller trusts. anchors: roots of their manufacturers. completed: certificates that came
    and the time, to those above them and the revocation lists that all of them name.
    """

    anchors: TrustAnchors
    completed: Callable[[Sequence[bytes], datetime], Issuers] = lambda *_: Issuers()

    def verifier(self, ask: Ask, now: datetime) -> Verifier:
        """Return the verifier that believes in the one attestation key that the CAS's TPM proved to hold.

        Raises:
            EvidenceError: the TPM is nobody's whom we trust, or it did not open the challenge.
        """
        keys = ask(CasTpmRequest())
        ek_public, ak = tpm2_public.parse(keys.ek_public), tpm2_public.parse(keys.ak_public)
        issuers = self.completed(keys.ek_certificates, now)
        ek = tpm2_activation.check_ek(
            ek_public, keys.ek_certificates, anchors=self.anchors, now=now, issuers=issuers
        )
        secret = os.urandom(tpm2_activation.SECRET_SIZE)
        curve = ek.key.curve if isinstance(ek.key, ec.EllipticCurvePublicKey) else None
        challenge = tpm2_activation.challenge(
            ek,
            ak,
            secret=secret,
            seed=os.urandom(tpm2_activation.SEED_SIZE),
            ephemeral=None if curve is None else ec.generate_private_key(curve),
        )
        answer = ask(CasTpmRequest(credential=challenge.credential, encrypted_seed=challenge.encrypted_seed))
        if answer.secret is None:
            raise CasProtocolError(
                "the CAS did not answer the challenge", "use the same release on both sides"
            )
        known = tpm2_activation.enrol(ek, ak, secret=secret, answer=answer.secret)
        nobody = TrustAnchors(spki_sha256=frozenset(), development=False)
        return Tpm2Verifier(KeyOrigins(nobody, {known.name: known}.get), event_log_required=False)
