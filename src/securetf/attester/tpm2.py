"""Makes TPM 2.0 Evidence: an attestation key, its proof of origin, and quotes over PCRs."""

import hashlib
from collections.abc import Mapping, Sequence

from securetf.attester.tpm_client import ENDORSEMENT, TpmClient
from securetf.attester.tpm_counter import read_all
from securetf.claims import REPORT_DATA_SIZE, Evidence, Platform
from securetf.errors import AttesterError, MalformedEvidenceError
from securetf.evidence import tpm2, tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import ECDSA, RSASSA, SHA256, Quote, Signature
from securetf.evidence.tpm2_wire import Reader, sized

EK_CERTIFICATE_RSA, EK_CERTIFICATE_ECC = (
    0x01C00002,
    0x01C0000A,
)  # NV; TCG EK Credential Profile, section 2.2.2.4
# Google Cloud (go-tpm-tools, client/handles.go)
GCE_CERTIFICATE_RSA, GCE_TEMPLATE_RSA = 0x01C10000, 0x01C10001
GCE_CERTIFICATE_ECC, GCE_TEMPLATE_ECC = 0x01C10002, 0x01C10003
QUOTED_PCRS = tuple(range(24))
_ATTEMPTS = 5
_AGAIN = "run this on the machine whose TPM is to be attested"

# Policy of the default EK templates: PolicySecret(TPM_RH_ENDORSEMENT) (TCG EK Credential Profile, annex B.3).
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_FIXED = (
    tpm2_public.FIXED_TPM | tpm2_public.FIXED_PARENT | tpm2_public.SENSITIVE_ORIGIN | tpm2_public.RESTRICTED
)
_EK_ATTRIBUTES = _FIXED | tpm2_public.ADMIN_WITH_POLICY | tpm2_public.DECRYPT
# NO_DA: an empty password cannot be guessed, and three unclean power-offs must not lock the key.
_AK_ATTRIBUTES = _FIXED | tpm2_public.USER_WITH_AUTH | tpm2_public.SIGN | tpm2_public.NO_DA


def _template(*, kind: int, ek: bool) -> bytes:
    """Return the TPMT_PUBLIC to ask for: templates L-1 and L-2 for the EK, P-256 or RSA-2048 for the AK."""
    rsa = kind == tpm2_public.RSA
    signing = (RSASSA if rsa else ECDSA, SHA256)
    scheme, scheme_hash = (tpm2_public.NULL, 0) if ek else signing
    # Template L-1 and L-2 fill `unique` with zeros; a new AK leaves it empty.
    rsa_unique, ecc_unique = (bytes(256),), (bytes(32), bytes(32))
    empty: tuple[bytes, ...] = (b"",) if rsa else (b"", b"")
    return tpm2_public.encode(
        Public(
            kind=kind,
            name_hash=SHA256,
            attributes=_EK_ATTRIBUTES if ek else _AK_ATTRIBUTES,
            auth_policy=_EK_POLICY if ek else b"",
            aes_bits=128 if ek else 0,
            scheme=scheme,
            scheme_hash=scheme_hash,
            bits=2048 if rsa else 0,
            curve=0 if rsa else tpm2_public.P256,
            unique=(rsa_unique if rsa else ecc_unique) if ek else empty,
        )
    )


def consistent_quote(
    client: TpmClient, ak: int, extra_data: bytes, pcrs: Sequence[int]
) -> tuple[Mapping[int, bytes], Quote, Signature]:
    """Return PCRs of the SHA-256 bank and a quote over just these values, by the key at handle `ak`.

    Raises:
        AttesterError: the TPM refused, or its PCRs changed five times while it was asked.
    """
    for _ in range(_ATTEMPTS):
        values = client.read_pcrs(SHA256, pcrs)
        quote, signature = client.quote(ak, extra_data, SHA256, pcrs)
        if hashlib.sha256(b"".join(values[index] for index in pcrs)).digest() == quote.pcr_digest:
            return values, quote, signature
    raise AttesterError("the PCRs change faster than they can be quoted", "stop what extends PCRs")


class _Quoting:
    """Quotes PCRs of the SHA-256 bank with one attestation key, loaded for as long as the client is open."""

    platform = Platform.TPM2

    def __init__(
        self, client: TpmClient, pcrs: Sequence[int], certificates: Sequence[bytes], event_log: bytes
    ) -> None:
        self._client, self._pcrs = client, tuple(sorted(pcrs))
        self._certificates, self._event_log = tuple(certificates), event_log
        self._ak: int
        self.ak_public: Public

    def attest(self, report_data: bytes) -> Evidence:
        """As `Attester.attest`; the quote carries a digest of `report_data`."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterError(
                f"report data has {len(report_data)} bytes, expected {REPORT_DATA_SIZE}", _AGAIN
            )
        return self.quote(tpm2.qualifying_data(report_data))

    def quote(self, extra_data: bytes) -> Evidence:
        """Return Evidence whose quote carries `extra_data`, at most 34 bytes.

        Raises:
            AttesterError: the TPM refused, or its PCRs changed five times while it was asked.
        """
        values, quote, signature = consistent_quote(self._client, self._ak, extra_data, self._pcrs)
        evidence = tpm2.Tpm2Evidence(
            ak=self.ak_public,
            quote=quote,
            signature=signature,
            pcrs=values,
            certificates=self._certificates,
            event_log=self._event_log,
        )
        return Evidence(Platform.TPM2, tpm2.encode(evidence))


class Tpm2Attester(_Quoting):
    """Quotes with a key of its own under the TPM's endorsement key: it must be enrolled once."""

    def __init__(
        self,
        client: TpmClient,
        *,
        ek_kind: int = tpm2_public.RSA,
        ak_kind: int = tpm2_public.ECC,
        pcrs: Sequence[int] = QUOTED_PCRS,
        event_log: bytes = b"",
        stored: bytes | None = None,
    ) -> None:
        """Make the endorsement key, and make or load the attestation key.

        ek_kind, ak_kind: `tpm2_public.RSA` (2048 bits) or `ECC` (P-256); all TPMs have the RSA EK. pcrs: of
        the SHA-256 bank, what is quoted. event_log: of this boot, whole. stored: what `stored` returned
        before, so that the key stays the same; None makes a new key.

        Raises:
            AttesterError: the TPM refused.
        """
        super().__init__(client, pcrs, (), event_log)
        self._ek_kind = ek_kind
        ek, self.ek_public = client.create_primary(ENDORSEMENT, _template(kind=ek_kind, ek=True))
        session = client.endorsement_session()
        if stored is None:
            private, public = client.create(ek, _template(kind=ak_kind, ek=False), session)
            client.flush(session)
            session = client.endorsement_session()
        else:
            private, public = _split(stored)
        self._ak = client.load(ek, private, public, session)
        client.flush(session)
        client.flush(ek)  # a TPM without resource manager has room for three objects
        self.stored = sized(private) + sized(public)
        self.ak_public = client.read_public(self._ak)

    def ek_certificate(self) -> bytes | None:
        """Return the manufacturer's certificate of the endorsement key, DER; None if the TPM holds none."""
        index = EK_CERTIFICATE_RSA if self._ek_kind == tpm2_public.RSA else EK_CERTIFICATE_ECC
        found = read_all(self._client, index)
        return None if found is None else _unpadded(found)

    def answer(self, credential: bytes, encrypted_seed: bytes) -> bytes:
        """Open the challenge of an enrolment (`verifier.tpm2_activation`); return its secret.

        Raises:
            AttesterError: the challenge is for another endorsement key or attestation key.
        """
        ek, _ = self._client.create_primary(ENDORSEMENT, _template(kind=self._ek_kind, ek=True))
        session = self._client.endorsement_session()
        try:
            return self._client.activate_credential(self._ak, ek, session, credential, encrypted_seed)
        finally:
            self._client.flush(session)
            self._client.flush(ek)


class CertifiedTpm2Attester(_Quoting):
    """Quotes with a key that the cloud's operator certified: its template and certificate stand in NV
    memory.
    """

    def __init__(
        self,
        client: TpmClient,
        *,
        template_index: int = GCE_TEMPLATE_RSA,
        certificate_index: int = GCE_CERTIFICATE_RSA,
        authorities: Sequence[bytes] = (),
        pcrs: Sequence[int] = QUOTED_PCRS,
        event_log: bytes = b"",
    ) -> None:
        """Load the key.

        template_index, certificate_index: of NV memory; the defaults are Google Cloud's. authorities: DER
        certificates above the key's, the root last, unless the verifier has them. pcrs, event_log: as for
        `Tpm2Attester`.

        Raises:
            AttesterError: there is no such template or certificate, or the TPM refused.
        """
        template, certificate = read_all(client, template_index), read_all(client, certificate_index)
        if template is None or certificate is None:
            raise AttesterError(
                f"the TPM has no certified key at NV {template_index:#x} and {certificate_index:#x}",
                "run this on a machine whose operator certifies its TPM, or enrol a key of your own",
            )
        super().__init__(client, pcrs, (certificate, *authorities), event_log)
        self._ak, self.ak_public = client.create_primary(ENDORSEMENT, template)


def _unpadded(certificate: bytes) -> bytes:
    """Cut off what fills an NV index after the certificate, which says its own length (X.690, 8.1.3)."""
    if certificate[:2] != b"\x30\x82":
        return certificate
    end = 4 + int.from_bytes(certificate[2:4], "big")
    return certificate[:end] if certificate[end:].strip(b"\0\xff") == b"" else certificate


def _split(stored: bytes) -> tuple[bytes, bytes]:
    try:
        reader = Reader(stored, "stored attestation key")
        parts = reader.sized("private part", 2048), reader.sized("public part", 2048)
        reader.end()
    except MalformedEvidenceError as error:
        raise AttesterError(error.problem, "make a new key and enrol it") from None
    return parts
