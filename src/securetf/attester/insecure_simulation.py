"""INSECURE SIMULATION of a TDX platform: production-shaped quotes under a development PKI kept on disk.

It proves nothing about any machine: whoever reads the directory can make any quote. docs/platforms.md says
what it is good for. Functions that need X.509 load it when called: a launcher only attests, and starts
faster without.
"""

import base64
import json
import os
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from securetf.attester.measurement import software_measurement
from securetf.attester.simulated_enclave import QuotingEnclave, simulated_report
from securetf.claims import REPORT_DATA_SIZE, Evidence, Platform, code_register
from securetf.errors import AttesterError, EndorsementError, KeyFileError

if TYPE_CHECKING:
    from securetf.attester.development_pki import DevelopmentPki
    from securetf.endorsements import Endorsements, TrustAnchors

RENEW_BEFORE = timedelta(days=2)  # collateral with less time left is issued again
ROOT_FILE = "root.pem"
COLLATERAL_FILE = "collateral.json"
FILE_SIZE_LIMIT = 1024 * 1024  # bytes

_NOTICE = "INSECURE SIMULATION. This file belongs to a simulated TEE and proves nothing about any machine."
_BEGIN = b"-----BEGIN CERTIFICATE-----\n"
_README = f"""{_NOTICE}

Development PKI in the shape of Intel's DCAP, made by `securetf simulation create`:
root.pem, pck-ca.pem, tcb-signer.pem, pck.pem   certificates
*-key.pem                                       their private keys: who reads them can simulate any software
collateral.json                                 TCB info, QE identity and CRLs; issued again before they
expire
"""
_FIX_CREATE = "make a platform with `securetf simulation create DIR`"
_IDENTITIES = {"root": "root", "pck_ca": "pck-ca", "tcb_signer": "tcb-signer", "pck": "pck"}


def create_platform(directory: Path, now: datetime) -> None:
    """Make a simulated platform: development PKI, PCK and collateral, mode 0600 in a directory of mode 0700.

    Raises:
        AttesterError: the directory exists and is not empty, or cannot be written.
    """
    from securetf.attester import development_pki  # noqa: PLC0415

    pki = development_pki.create(now, platform_id=secrets.token_bytes(16))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise AttesterError(f"{directory} is not empty", "name a directory that does not exist yet")
        directory.chmod(0o700)
        _write(directory / "README.txt", _README.encode())
        for attribute, name in _IDENTITIES.items():
            identity = getattr(pki, attribute)
            _write(directory / f"{name}.pem", _pem(identity.certificate.public_bytes(Encoding.PEM)))
            private = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            _write(directory / f"{name}-key.pem", _pem(private))
        _write_collateral(directory, development_pki.endorse(pki, now))
    except OSError as error:
        raise AttesterError(
            f"cannot write {error.filename or directory}: {error.strerror}",
            "name a directory that this user can write",
        ) from None


def load_anchor(directory: Path) -> "TrustAnchors":
    """Return the development root of the platform as trust anchor.

    Raises:
        AttesterError: no such file. EndorsementError: not a development root.
    """
    from securetf.endorsements import TrustAnchors  # noqa: PLC0415

    return TrustAnchors.insecure_simulation(_read(directory / ROOT_FILE))


def load_endorsements(directory: Path, now: datetime) -> "Endorsements":
    """Return the platform's collateral; issued again, and written, when it is not good for two more days.

    Raises:
        AttesterError, KeyFileError, EndorsementError: the directory is not a platform, or not private.
    """
    from cryptography import x509  # noqa: PLC0415

    from securetf.attester import development_pki  # noqa: PLC0415
    from securetf.endorsements.dcap import Endorsements, strict_json  # noqa: PLC0415
    from securetf.endorsements.trust import UNREADABLE  # noqa: PLC0415

    parsed = strict_json(_read(directory / COLLATERAL_FILE), COLLATERAL_FILE)
    if not isinstance(parsed, dict) or sorted(parsed) != ["collateral", "notice"]:
        raise EndorsementError(f"{COLLATERAL_FILE} is not of the form this release writes", _FIX_CREATE)
    endorsements = Endorsements.from_json(str(parsed["collateral"]))
    try:
        pck_crl = x509.load_der_x509_crl(endorsements.pck_crl)
    except UNREADABLE as error:
        raise EndorsementError(f"the CRL in {COLLATERAL_FILE} is damaged: {error}", _FIX_CREATE) from None
    next_update = pck_crl.next_update_utc
    if next_update is not None and pck_crl.last_update_utc <= now < next_update - RENEW_BEFORE:
        return endorsements
    endorsements = development_pki.endorse(_load_pki(directory), now)
    try:
        _write_collateral(directory, endorsements)
    except OSError as error:
        raise AttesterError(
            f"cannot write {directory / COLLATERAL_FILE}: {error.strerror}",
            "run as the owner of the platform",
        ) from None
    return endorsements


class SimulatedTdx:
    """Attester that signs TDX v4 quotes with the platform's development keys."""

    platform = Platform.INSECURE_SIMULATION

    def __init__(self, directory: Path, code_roots: Mapping[str, bytes]) -> None:
        """Load the keys in `directory`. code_roots: what `claims.code_register` takes.

        Raises:
            AttesterError, KeyFileError: the directory is not a platform, or its keys are readable by others.
        """
        chain = [_certificate(directory, name) for name in ("pck", "pck-ca", "root")]
        self._enclave = QuotingEnclave(_load_key(directory, "pck"), b"".join(chain))
        self._rtmr3 = code_register(code_roots)

    def attest(self, report_data: bytes) -> Evidence:
        """Return a quote with mr_td = software_measurement(), measured now, and rtmr3 =
        code_register(code_roots).

        Raises:
            AttesterError: report_data has not 64 bytes, or the software cannot be measured.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterError(
                f"report data has {len(report_data)} bytes, expected {REPORT_DATA_SIZE}",
                "give the value of securetf.evidence.binding.report_data",
            )
        body = simulated_report(report_data, mr_td=software_measurement(), rtmr3=self._rtmr3)
        return Evidence(Platform.INSECURE_SIMULATION, self._enclave.quote(body))


def _load_pki(directory: Path) -> "DevelopmentPki":
    from cryptography import x509  # noqa: PLC0415

    from securetf.attester.development_pki import DevelopmentPki, Identity  # noqa: PLC0415
    from securetf.endorsements.trust import UNREADABLE  # noqa: PLC0415

    identities = {}
    for attribute, name in _IDENTITIES.items():
        try:
            certificate = x509.load_pem_x509_certificate(_certificate(directory, name))
        except UNREADABLE as error:
            raise AttesterError(f"{directory / name}.pem is damaged: {error}", _FIX_CREATE) from None
        identities[attribute] = Identity(certificate, _load_key(directory, name))
    return DevelopmentPki(**identities)


def _certificate(directory: Path, name: str) -> bytes:
    """Return the one PEM block in a certificate's file, without the notice before it."""
    path = directory / f"{name}.pem"
    _, begin, block = _read(path).partition(_BEGIN)
    if not begin or block.count(b"-----") != 2:
        raise AttesterError(f"{path} is damaged: it is not one PEM certificate", _FIX_CREATE)
    return begin + block


def _load_key(directory: Path, name: str) -> EllipticCurvePrivateKey:
    """Return the private key of the certificate `name`."""
    path = directory / f"{name}-key.pem"
    _refuse_readable_by_others(path)
    try:
        key = load_pem_private_key(_read(path), password=None)
        certificate = base64.b64decode(_certificate(directory, name)[len(_BEGIN) :].split(b"-----")[0])
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AttesterError(f"{name} of {directory} is damaged: {error}", _FIX_CREATE) from None
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not isinstance(key, EllipticCurvePrivateKey) or spki not in certificate:
        raise AttesterError(f"{path} is not the key of its certificate", _FIX_CREATE)
    return key


def _refuse_readable_by_others(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise AttesterError(f"cannot open {path}: {error.strerror}", _FIX_CREATE) from None
    if mode & 0o077:
        raise KeyFileError(f"{path} has mode {mode & 0o777:04o}, expected 0600", f"run `chmod 600 {path}`")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_SIZE_LIMIT + 1)
    except OSError as error:
        raise AttesterError(f"cannot read {path}: {error.strerror}", _FIX_CREATE) from None
    if len(raw) > FILE_SIZE_LIMIT:
        raise AttesterError(f"{path} has more than {FILE_SIZE_LIMIT} bytes", _FIX_CREATE)
    return raw


def _write_collateral(directory: Path, endorsements: "Endorsements") -> None:
    text = json.dumps({"notice": _NOTICE, "collateral": endorsements.to_json()}, indent=1)
    _write(directory / COLLATERAL_FILE, text.encode())


def _write(path: Path, content: bytes) -> None:
    """Write all or nothing, mode 0600: a new file is renamed over the old one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _pem(block: bytes) -> bytes:
    return f"{_NOTICE}\n".encode() + block
