"""What AMD says about a SEV-SNP platform: its certificates and revocation list, and the pinned root keys.

AMD 57230 ("VCEK Certificate and KDS Interface Specification"): the ARK signs ASK (for VCEKs) and ASVK (for
VLEKs).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from securetf.endorsements.trust import UNREADABLE, spki_digest
from securetf.errors import EndorsementError, MalformedEvidenceError
from securetf.evidence import sev_snp_certificates
from securetf.evidence.sev_snp import SnpProduct

SIZE_LIMIT = 64 * 1024  # bytes of one file; a chain in PEM has 7 KB
_FIX = "give VCEK or VLEK, ASK or ASVK, ARK and the revocation list of this platform, in PEM or DER"
_BLOCK = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----\r?\n.+?-----END \1-----", re.DOTALL)
_ROLES = (  # common name of the subject to the field of `SnpEndorsements`
    (re.compile(r"ARK-\w+"), "root"),
    (re.compile(r"SEV-VLEK-\w+"), "asvk"),
    (re.compile(r"SEV-(VCEK|VLEK)"), "vek"),
    (re.compile(r"SEV-\w+"), "ask"),
)

# SHA-256 of the SubjectPublicKeyInfo of AMD's root keys (ARK), one for each product line.
_AMD_ROOTS = MappingProxyType(
    {
        bytes.fromhex("9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"): SnpProduct.MILAN,
        bytes.fromhex("429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"): SnpProduct.GENOA,
        bytes.fromhex("4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"): SnpProduct.TURIN,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpAnchors:
    """Keys that a SEV-SNP chain may end in, each for one product line. An empty mapping trusts nothing.

    roots: SHA-256 of SubjectPublicKeyInfo (32 bytes) to product line. development: True if these are keys of
    an INSECURE SIMULATION.
    """

    roots: Mapping[bytes, SnpProduct]
    development: bool

    @staticmethod
    def amd() -> "SnpAnchors":
        """Return the pins of AMD's roots for Milan, Genoa and Turin."""
        return SnpAnchors(roots=_AMD_ROOTS, development=False)

    def product(self, root: x509.Certificate) -> SnpProduct | None:
        """Return the product line that this certificate's key is pinned for. Says nothing of signatures."""
        return self.roots.get(spki_digest(root))


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEndorsements:
    """One platform's certificates in DER, not authenticated: the verifier checks every signature and window.

    root: ARK. ask, asvk: what it signed for VCEKs and for VLEKs. vek: VCEK or VLEK of the platform, None if
    it comes with the Evidence. crl: revocation list of the ARK.
    """

    root: bytes | None = field(default=None, repr=False)
    ask: bytes | None = field(default=None, repr=False)
    asvk: bytes | None = field(default=None, repr=False)
    vek: bytes | None = field(default=None, repr=False)
    crl: bytes | None = field(default=None, repr=False)

    @staticmethod
    def of(files: Iterable[bytes]) -> "SnpEndorsements":
        """Sort files of certificates and a revocation list, PEM (several each) or DER, by AMD's names. A
        host's certificate table (`auxblob`) counts as such a file, without its revocation list.

        Raises:
            EndorsementError: too long, none of these, not one of AMD's names, or two for one place.
        """
        found: dict[str, bytes] = {}
        for content in files:
            for role, der in _sorted(content):
                if found.get(role, der) != der:
                    raise EndorsementError(f"two certificates were given for the place of {role}", _FIX)
                found[role] = der
        return SnpEndorsements(**found)


def _sorted(content: bytes) -> Iterable[tuple[str, bytes]]:
    if len(content) > SIZE_LIMIT:
        raise EndorsementError(f"a file has {len(content)} bytes, at most {SIZE_LIMIT} are read", _FIX)
    table = _table(content) if sev_snp_certificates.begins_table(content) else None
    blocks = [match[0] for match in _BLOCK.finditer(content)] if table is None else []
    for block in blocks or table or [content]:
        try:
            if b"BEGIN X509 CRL" in block[:32]:
                yield "crl", x509.load_pem_x509_crl(block).public_bytes(Encoding.DER)
            elif blocks:
                yield _role(x509.load_pem_x509_certificate(block))
            else:
                yield _read_der(block)
        except UNREADABLE as error:
            raise EndorsementError(f"a file is no certificate or revocation list: {error}", _FIX) from None


def _table(content: bytes) -> list[bytes]:
    """Return the certificates of a host's table; not its revocation list, which it could keep old."""
    try:
        found = sev_snp_certificates.certificates(content)
    except MalformedEvidenceError as error:
        raise EndorsementError(error.problem, _FIX) from None
    return [der for name, der in found.items() if name != "crl"]


def _read_der(raw: bytes) -> tuple[str, bytes]:
    try:
        return _role(x509.load_der_x509_certificate(raw))
    except UNREADABLE:
        return "crl", x509.load_der_x509_crl(raw).public_bytes(Encoding.DER)


def _role(certificate: x509.Certificate) -> tuple[str, bytes]:
    name = common_name(certificate)
    for pattern, role in _ROLES:
        if pattern.fullmatch(name):
            return role, certificate.public_bytes(Encoding.DER)
    raise EndorsementError(f"{name!r} is none of the names in AMD's SEV-SNP certificates", _FIX)


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of the subject, empty if there is not exactly one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""
