"""A synthetic AMD: ARK, ASK, ASVK for each product line, VCEKs and VLEKs, revocation lists, signed reports.

Keys are made once for a test run; three RSA keys serve all product lines in changing roles, so each line has
another root.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from securetf.claims import VerifiedClaims
from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.endorsements.trust import spki_digest
from securetf.evidence import sev_snp
from securetf.evidence.sev_snp import NO_MIGRATION_AGENT, SnpProduct, SnpReport, SnpTcb
from securetf.verifier.sev_snp import authenticate

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
BASE = "1.3.6.1.4.1.3704.1"
CSP = "CN=cc-test.example"
CPUID = {SnpProduct.MILAN: (0x19, 1, 1), SnpProduct.GENOA: (0x19, 0x11, 1), SnpProduct.TURIN: (0x1A, 2, 1)}
LINES = list(SnpProduct)


@cache
def rsa_key(index: int) -> rsa.RSAPrivateKey:
    """Return one of the keys of this run."""
    return rsa.generate_private_key(65537, 4096 if index < 3 else 2048)


@cache
def ec_key(index: int = 0) -> ec.EllipticCurvePrivateKey:  # noqa: ARG001 (the key of the cache)
    """Return one of the chips' keys of this run."""
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True)
class Recipe:
    """How one certificate is made; a test changes one thing."""

    name: str
    issuer: str
    key: Any
    signer: Any
    ca: bool | None = True
    start: datetime = NOW - timedelta(days=100)
    end: datetime = NOW + timedelta(days=1000)
    serial: int = 7
    digest: HashAlgorithm = field(default_factory=SHA384)
    pss: bool = True
    extensions: Mapping[str, bytes] = field(default_factory=dict)

    def certificate(self) -> x509.Certificate:
        """Issue it."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.name))
            .issuer_name(name(self.issuer))
            .public_key(self.key.public_key())
            .serial_number(self.serial)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
        )
        if self.ca is not None:
            builder = builder.add_extension(
                x509.BasicConstraints(ca=self.ca, path_length=None), critical=True
            )
        for oid, value in self.extensions.items():
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(unknown, critical=False)
        return builder.sign(self.signer, self.digest, rsa_padding=self.padding())

    def padding(self) -> Any:
        """Return the padding of the signature; None for EC."""
        if not isinstance(self.signer, rsa.RSAPrivateKey):
            return None
        if not self.pss:
            return padding.PKCS1v15()
        return padding.PSS(padding.MGF1(self.digest), self.digest.digest_size)

    def der(self) -> bytes:
        """Issue it; return DER."""
        return self.certificate().public_bytes(Encoding.DER)


def name(common_name: str) -> x509.Name:
    """Return a name as AMD's."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "INSECURE SIMULATION of AMD"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def integer(value: int) -> bytes:
    """Return a DER INTEGER."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes((2, len(raw))) + raw


def text(value: str) -> bytes:
    """Return a DER IA5String."""
    return bytes((0x16, len(value))) + value.encode()


@dataclass(frozen=True)
class Platform:
    """One chip of a product line with its certificates."""

    product: SnpProduct = SnpProduct.MILAN

    @property
    def _keys(self) -> tuple[int, int, int]:
        shift = LINES.index(self.product)
        return shift % 3, (shift + 1) % 3, (shift + 2) % 3

    @property
    def tcb(self) -> SnpTcb:
        """The firmware of this chip."""
        fmc = 1 if self.product is SnpProduct.TURIN else None
        return SnpTcb(bootloader=4, tee=0, snp=24, microcode=219, fmc=fmc)

    @property
    def hw_id(self) -> bytes:
        """The chip id."""
        return bytes(range(1, 9 if self.product is SnpProduct.TURIN else 65))

    def ark(self, **changes: Any) -> Recipe:
        """Return how the root is made."""
        ark, own = rsa_key(self._keys[0]), f"ARK-{self.product}"
        return replace(Recipe(own, own, ark, ark, serial=5), **changes)

    def ask(self, **changes: Any) -> Recipe:
        """Return how the signer of VCEKs is made."""
        ark, ask = rsa_key(self._keys[0]), rsa_key(self._keys[1])
        return replace(Recipe(f"SEV-{self.product}", f"ARK-{self.product}", ask, ark, serial=6), **changes)

    def asvk(self, **changes: Any) -> Recipe:
        """Return how the signer of VLEKs is made."""
        ark, asvk = rsa_key(self._keys[0]), rsa_key(self._keys[2])
        return replace(
            Recipe(f"SEV-VLEK-{self.product}", f"ARK-{self.product}", asvk, ark, serial=8), **changes
        )

    def extensions(self, **changes: bytes | None) -> dict[str, bytes]:
        """Return the extensions of the VCEK; a change of None leaves one out. Names are the arcs, `_3_1`."""
        turin = self.product is SnpProduct.TURIN
        spls = {1: self.tcb.bootloader, 2: self.tcb.tee, 3: self.tcb.snp, 8: self.tcb.microcode}
        values: dict[str, bytes | None] = {
            f"{BASE}.1": integer(int(turin)),
            f"{BASE}.2": text(f"{self.product}-B0"),
            **{f"{BASE}.3.{arc}": integer(value) for arc, value in spls.items()},
            **{f"{BASE}.3.{arc}": integer(0) for arc in (4, 5, 6, 7)},
            f"{BASE}.4": self.hw_id,
        }
        if turin:
            values[f"{BASE}.3.9"] = integer(self.tcb.fmc or 0)
        values |= {BASE + arc.replace("_", "."): value for arc, value in changes.items()}
        return {oid: value for oid, value in values.items() if value is not None}

    def vcek(self, **changes: Any) -> Recipe:
        """Return how the chip's certificate is made."""
        recipe = Recipe(
            "SEV-VCEK",
            f"SEV-{self.product}",
            ec_key(),
            rsa_key(self._keys[1]),
            ca=None,
            extensions=self.extensions(),
        )
        return replace(recipe, **changes)

    def vlek(self, **changes: Any) -> Recipe:
        """Return how a cloud provider's certificate is made."""
        recipe = Recipe(
            "SEV-VLEK",
            f"SEV-VLEK-{self.product}",
            ec_key(),
            rsa_key(self._keys[2]),
            ca=None,
            extensions=self.extensions(_2=text(str(self.product)), _4=None, _5=text(CSP)),
        )
        return replace(recipe, **changes)

    def crl(
        self,
        revoked: Sequence[int] = (),
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        key: Any = None,
    ) -> bytes:
        """Return a revocation list of the root that names the serial numbers."""
        start = start or NOW - timedelta(days=1)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name(f"ARK-{self.product}"))
            .last_update(start)
            .next_update(end or NOW + timedelta(days=30))
        )
        for serial in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(serial, NOW - timedelta(days=2)).build()
            )
        pss = padding.PSS(padding.MGF1(SHA384()), 48)
        signed = builder.sign(key or rsa_key(self._keys[0]), SHA384(), rsa_padding=pss)
        return signed.public_bytes(Encoding.DER)

    def endorsements(self, *, vlek: bool = False, **changes: bytes | None) -> SnpEndorsements:
        """Return everything that belongs to this chip."""
        return replace(_endorsements(self, vlek), **changes)

    @property
    def anchors(self) -> SnpAnchors:
        """The pins of all synthetic product lines."""
        return _anchors()

    def report(self, **changes: Any) -> SnpReport:
        """Return a report, not signed."""
        values: dict[str, Any] = {
            "version": 5,
            "guest_svn": 2,
            "policy": 1 << 17 | 0x1F,
            **dict.fromkeys(("family_id", "image_id"), bytes(16)),
            "vmpl": 0,
            **dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), self.tcb),
            "platform_info": 0x25,
            "flags": 0,
            "report_data": REPORT_DATA,
            "measurement": b"\1" * 48,
            "host_data": bytes(32),
            **dict.fromkeys(("id_key_digest", "author_key_digest"), bytes(48)),
            "report_id": b"\2" * 32,
            "report_id_ma": NO_MIGRATION_AGENT,
            "cpuid": CPUID[self.product],
            "chip_id": self.hw_id.ljust(64, b"\0"),
            **dict.fromkeys(("current_version", "committed_version"), (1, 55, 65)),
            **dict.fromkeys(("launch_mitigation", "current_mitigation"), 11),
            **dict.fromkeys(("signature_r", "signature_s"), 1),
        }
        return SnpReport(**values | changes)

    def signed(self, *, key: ec.EllipticCurvePrivateKey | None = None, **changes: Any) -> bytes:
        """Return a signed report."""
        report = self.report(**changes)
        der = (key or ec_key()).sign(sev_snp.signed_bytes(report), ec.ECDSA(SHA384()))
        r, s = decode_dss_signature(der)
        return sev_snp.encode(replace(report, signature_r=r, signature_s=s))

    def verify(self, raw: bytes | None = None, **changes: Any) -> VerifiedClaims:
        """Run the production steps under the synthetic roots."""
        endorsements = changes.pop("endorsements", None) or self.endorsements()
        arguments: dict[str, Any] = {
            "anchors": self.anchors,
            "endorsements_for": lambda _: endorsements,
            "expected_report_data": REPORT_DATA,
            "now": NOW,
        }
        return authenticate(self.signed() if raw is None else raw, **arguments | changes)


@cache
def _anchors() -> SnpAnchors:
    roots = {spki_digest(Platform(line).ark().certificate()): line for line in LINES}
    return SnpAnchors(roots=roots, development=True)


@cache
def _endorsements(platform: Platform, vlek: bool) -> SnpEndorsements:
    leaf = platform.vlek() if vlek else platform.vcek()
    return SnpEndorsements(
        root=platform.ark().der(),
        ask=platform.ask().der(),
        asvk=platform.asvk().der(),
        vek=leaf.der(),
        crl=platform.crl(),
    )


__all__ = ["NOW", "REPORT_DATA", "SHA256", "Platform", "Recipe", "ec_key", "integer", "rsa_key", "text"]
