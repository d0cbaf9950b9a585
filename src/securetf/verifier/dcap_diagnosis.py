"""Names the part for which dcap-qvl refused a quote. It only refuses: whatever it finds, the answer is an
error.

dcap-qvl's errors are free text. Each part is checked again here in the order of the chain of trust, so that
a user learns whether the quote, the certificates, the collateral, the TCB or the configuration is at fault;
dcap-qvl's own words are the detail.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from securetf.endorsements import Endorsements
from securetf.endorsements.dcap import strict_json
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import EndorsementError, EvidenceError, SignatureError, TcbError
from securetf.evidence import dcap
from securetf.verifier import dcap_levels
from securetf.verifier.dcap_rules import Rules
from securetf.verifier.pck import Chain, load_pem

_FETCH = "fetch the collateral of this platform again and check this machine's clock"
_RESTART = "attest again; if it persists, the platform's quoting is broken or tampered with"


def explain(rules: Rules, chain: Chain, endorsements: Endorsements, now: datetime, detail: str) -> NoReturn:
    """Raise the error of the first part that does not hold. detail: what dcap-qvl said.

    Raises:
        EvidenceError: always; the exact subclass where the part is found.
    """
    try:
        _check_parts(rules, chain, endorsements, now, detail)
    except UNREADABLE as error:
        raise EvidenceError(
            f"a certificate or CRL behind the quote cannot be read: {error}; dcap-qvl: {detail}", _RESTART
        ) from None
    raise EvidenceError(f"dcap-qvl refused the quote: {detail}", _RESTART)


def _check_parts(rules: Rules, chain: Chain, endorsements: Endorsements, now: datetime, detail: str) -> None:
    _check_certificates(chain, now)
    tcb_info = _check_document(
        "TCB info",
        endorsements.tcb_info,
        endorsements.tcb_info_signature,
        now,
        chain,
        endorsements.tcb_info_issuer_chain,
    )
    qe_identity = _check_document(
        "QE identity",
        endorsements.qe_identity,
        endorsements.qe_identity_signature,
        now,
        chain,
        endorsements.qe_identity_issuer_chain,
    )
    _check_revocation(chain, endorsements, now)
    _check_quote_signatures(rules, chain)
    _check_identities(rules, chain, tcb_info, qe_identity)
    _check_levels(rules, tcb_info, qe_identity, detail)
    rules.check_configuration()


def _check_certificates(chain: Chain, now: datetime) -> None:
    for what, certificate, issuer, is_ca in (
        ("root", chain.root, chain.root, True),
        ("PCK CA", chain.ca, chain.root, True),
        ("PCK certificate", chain.leaf, chain.ca, False),
    ):
        try:
            certificate.verify_directly_issued_by(issuer)
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (*UNREADABLE, InvalidSignature, x509.ExtensionNotFound):
            raise SignatureError(f"the {what} of the quote is not signed by its issuer", _RESTART) from None
        if constraints.ca is not is_ca:
            raise SignatureError(
                f"the {what} of the quote stands in another role (CA: {constraints.ca})", _RESTART
            )
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise SignatureError(
                f"the {what} of the quote is good from {certificate.not_valid_before_utc:%F %T} to "
                f"{certificate.not_valid_after_utc:%F %T}, not at {now:%F %T}",
                "check this machine's clock; renew the platform's PCK certificate",
            )


def _check_document(
    what: str, text: str, signature: bytes, now: datetime, chain: Chain, issuer_chain: str
) -> Mapping[str, Any]:
    signer = load_pem(issuer_chain)[0]
    try:
        signer.verify_directly_issued_by(chain.root)
    except (*UNREADABLE, InvalidSignature):
        raise EndorsementError(f"the signer of {what} is not certified by the root", _FETCH) from None
    _check_window(
        f"the certificate of the signer of {what}",
        signer.not_valid_before_utc,
        signer.not_valid_after_utc,
        now,
    )
    if not _signed(signer.public_key(), signature, text.encode()):
        raise EndorsementError(f"the signature of {what} does not hold: it was changed", _FETCH)
    parsed = strict_json(text, what)
    try:
        issued, expires = (_moment(parsed[name]) for name in ("issueDate", "nextUpdate"))
    except (KeyError, TypeError, ValueError):
        raise EndorsementError(f"{what} does not say when it was issued and expires", _FETCH) from None
    _check_window(what, issued, expires, now)
    return dict(parsed)


def _check_revocation(chain: Chain, endorsements: Endorsements, now: datetime) -> None:
    for what, raw, issuer, certificates in (
        (
            "root CRL",
            endorsements.root_ca_crl,
            chain.root,
            {"root": chain.root, "PCK CA": chain.ca, **_signers(endorsements)},
        ),
        ("PCK CRL", endorsements.pck_crl, chain.ca, {"PCK certificate": chain.leaf}),
    ):
        try:
            crl = x509.load_der_x509_crl(raw)
            public_key = issuer.public_key()
            genuine = (
                crl.issuer == issuer.subject
                and isinstance(public_key, ec.EllipticCurvePublicKey)
                and crl.is_signature_valid(public_key)
            )
        except UNREADABLE:
            raise EndorsementError(f"the {what} is missing or damaged", _FETCH) from None
        if not genuine:
            raise EndorsementError(f"the {what} is not signed by the issuer of what it revokes", _FETCH)
        if crl.next_update_utc is None:
            raise EndorsementError(f"the {what} does not say when it expires", _FETCH)
        _check_window(f"the {what}", crl.last_update_utc, crl.next_update_utc, now)
        for name, certificate in certificates.items():
            if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                raise SignatureError(f"the {name} is revoked by its issuer", "do not use this machine")


def _signers(endorsements: Endorsements) -> dict[str, x509.Certificate]:
    return {
        "signer of TCB info": load_pem(endorsements.tcb_info_issuer_chain)[0],
        "signer of QE identity": load_pem(endorsements.qe_identity_issuer_chain)[0],
    }


def _check_quote_signatures(rules: Rules, chain: Chain) -> None:
    quote = rules.quote
    if not _signed(chain.leaf.public_key(), quote.qe_report_signature, quote.qe_report):
        raise SignatureError("the QE report is not signed by the platform's PCK", _RESTART)
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest()
    if quote.qe_report[320:352] != bound:
        raise SignatureError("the attestation key is not the one that the quoting enclave reports", _RESTART)
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.attestation_key)
    except ValueError:
        raise SignatureError("the attestation key is not a point of P-256", _RESTART) from None
    if not _signed(key, quote.signature, rules.signed):
        raise SignatureError("the quote's signature does not hold: header or body was changed", _RESTART)


def _check_identities(
    rules: Rules, chain: Chain, tcb_info: Mapping[str, Any], qe_identity: Mapping[str, Any]
) -> None:
    for what, document, expected in (
        ("TCB info", tcb_info, rules.tcb_info_id),
        ("QE identity", qe_identity, rules.qe_identity_id),
    ):
        if document.get("id") != expected:
            raise EndorsementError(f"{what} is for {document.get('id')!r}, expected {expected!r}", _FETCH)
    fmspc = str(tcb_info.get("fmspc")).upper()
    if fmspc != chain.fmspc:
        raise EndorsementError(f"TCB info is for FMSPC {fmspc}, the platform has {chain.fmspc}", _FETCH)


def _check_levels(
    rules: Rules, tcb_info: Mapping[str, Any], qe_identity: Mapping[str, Any], detail: str
) -> None:
    extension = dcap_qvl.parse_pck_extension_from_pem(rules.quote.pck_chain.removesuffix(b"\0"))
    try:
        dcap_levels.check_statuses(tcb_info)
        dcap_levels.check_enclave_statuses("QE identity", qe_identity)
        dcap_levels.check_quoting_enclave(rules.quote.qe_report, qe_identity)
        rules.check_platform(extension.cpu_svn, extension.pce_svn, tcb_info)
        rules.check_module(tcb_info)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EndorsementError(f"the collateral cannot be used: {error!r}: {detail}", _FETCH) from None
    if "Revoked" in detail:
        raise TcbError(f"the platform's TCB is Revoked: {detail}", "do not use this machine")


def _check_window(what: str, start: datetime, end: datetime, now: datetime) -> None:
    if now < start:
        raise EndorsementError(f"{what} is issued in the future: {start:%F %T}, now {now:%F %T}", _FETCH)
    if now > end:
        raise EndorsementError(f"{what} expired at {end:%F %T}, now {now:%F %T}", _FETCH)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _signed(key: object, signature: bytes, data: bytes) -> bool:
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != dcap.SIGNATURE_SIZE:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
