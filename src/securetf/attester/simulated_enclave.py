"""INSECURE SIMULATION: the quoting enclave. Quotes in Intel's form, under a development PCK.

Apart from the rest of the development PKI: a launcher needs no more, and X.509 code is slow to load.
"""

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetf.claims import REGISTER_SIZE
from securetf.evidence import dcap, tdx

CPU_SVN = bytes([3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0])
# Byte 1 is the TDX module's major version: 0 needs no module identity in the TCB info.
TEE_TCB_SVN = bytes([5, 0, 2, *bytes(13)])
QE_MR_SIGNER = hashlib.sha256(b"INSECURE SIMULATION quoting enclave signer").digest()
QE_ISV_SVN = 4
QE_PROD_ID = 2
QE_ATTRIBUTES = bytes.fromhex("1100000000000000e700000000000000")

_TD_ATTRIBUTES = (1 << 28).to_bytes(8, "little")  # SEPT_VE_DISABLE, nothing else
_XFAM = bytes.fromhex("e702060000000000")


class QuotingEnclave:
    """Signs TD reports as Intel's quoting enclave does, with an attestation key that the PCK certifies."""

    def __init__(
        self,
        pck_key: ec.EllipticCurvePrivateKey,
        pck_chain: bytes,
        *,
        mr_signer: bytes = QE_MR_SIGNER,
        isv_svn: int = QE_ISV_SVN,
    ) -> None:
        """Make an attestation key and have it certified. pck_chain: PEM of PCK certificate, CA and root."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._public = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        self._auth_data = bytes(range(dcap.QE_AUTH_DATA_SIZE))
        bound = hashlib.sha256(self._public + self._auth_data).digest()
        self._report = b"".join(
            (
                *(CPU_SVN, bytes(4), bytes(28), QE_ATTRIBUTES),
                *(hashlib.sha256(b"INSECURE SIMULATION quoting enclave").digest(), bytes(32)),
                *(mr_signer, bytes(96)),
                *(QE_PROD_ID.to_bytes(2, "little"), isv_svn.to_bytes(2, "little"), bytes(60)),
                *(bound, bytes(32)),
            )
        )
        self._report_signature = sign(pck_key, self._report)
        self._chain = pck_chain

    def quote(self, body: tdx.TdReport, *, version: int = 4) -> bytes:
        """Return the canonical quote of `body`."""
        unsigned = tdx.TdxQuote(
            version=version,
            user_data=bytes(20),
            body=body,
            signature=bytes(dcap.SIGNATURE_SIZE),
            attestation_key=self._public,
            qe_report=self._report,
            qe_report_signature=self._report_signature,
            qe_auth_data=self._auth_data,
            pck_chain=self._chain,
        )
        signed = tdx.signed_bytes(unsigned)
        raw = tdx.encode(unsigned)
        offset = len(signed) + 4  # the signature is the first part of the signature data
        return raw[:offset] + sign(self._key, signed) + raw[offset + dcap.SIGNATURE_SIZE :]


def simulated_report(report_data: bytes, *, mr_td: bytes, rtmr3: bytes) -> tdx.TdReport:
    """Return the TD report of the simulated platform; registers that it does not use are zero."""
    zero = bytes(REGISTER_SIZE)
    return tdx.TdReport(
        tee_tcb_svn=TEE_TCB_SVN,
        mr_seam=zero,
        mr_signer_seam=zero,
        seam_attributes=bytes(8),
        td_attributes=_TD_ATTRIBUTES,
        xfam=_XFAM,
        mr_td=mr_td,
        mr_config_id=zero,
        mr_owner=zero,
        mr_owner_config=zero,
        rtmr0=zero,
        rtmr1=zero,
        rtmr2=zero,
        rtmr3=rtmr3,
        report_data=report_data,
    )


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Return ECDSA P-256 with SHA-256 as 64 bytes, r then s, big endian."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
