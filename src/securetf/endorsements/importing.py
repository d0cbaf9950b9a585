"""Files of endorsements, fetched elsewhere, to names in the cache: for verifiers without a network.

Taken are a cache's own files (any of them, so a cache can be copied), DCAP collateral as one JSON object, and
AMD's certificates and revocation lists in PEM or DER. Nothing is authenticated here.
"""

import base64
from collections.abc import Iterable, Iterator
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from securetf.endorsements import names
from securetf.endorsements.cache import Artefact, Cache
from securetf.endorsements.dcap import Endorsements, strict_json
from securetf.endorsements.needs import DcapNeed, PckCa, Tee
from securetf.endorsements.sev_snp import SnpEndorsements
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import EndorsementError
from securetf.evidence.sev_snp import SnpKey, SnpProduct, SnpTcb

FILE_LIMIT = 2 * 1024 * 1024  # bytes
_FIX = "give collateral (JSON), AMD's certificates and lists (PEM, DER), or the files of another cache"
_AMD = "1.3.6.1.4.1.3704.1"  # AMD 57230, "Certificate Extensions"
_SPLS = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}

Named = tuple[str, bytes, str]  # name of the artefact, content, source


def import_files(
    cache: Cache, files: Iterable[tuple[str, bytes]], *, update: str, now: datetime
) -> list[Artefact]:
    """Put what the files hold into the cache. files: where each came from, and its content.

    update: which TCB evaluation data the collateral is of, `standard` or `early`.

    Raises:
        EndorsementError: a file holds nothing that is known, or something that does not count at `now`;
        nothing of any file is kept then.
    """
    found: list[Named] = []
    amd: list[tuple[str, bytes]] = []
    for source, content in files:
        if content.lstrip()[:1] == b"{":
            found.append(_json(source, content, update))
        else:
            amd.append((source, content))
    try:
        found += _amd(amd)
    except UNREADABLE as error:  # some parts are read only when they are asked for
        raise EndorsementError(f"a certificate or list cannot be read: {error}", _FIX) from None
    for name, content, _ in found:  # all of them, before the first is kept
        cache.check(name, content, now=now)
    return [cache.put(name, content, source=source, now=now) for name, content, source in found]


def _json(source: str, content: bytes, update: str) -> Named:
    parsed = strict_json(content, source, limit=FILE_LIMIT)
    if {"name", "content", "version"} <= parsed.keys():
        try:
            return str(parsed["name"]), base64.b64decode(parsed["content"], validate=True), source
        except (TypeError, ValueError):
            raise EndorsementError(f"{source} is not a file of a cache", _FIX) from None
    collateral = Endorsements.from_json(content)
    return names.dcap(_need(source, collateral), update), collateral.to_json().encode(), source


def _need(source: str, collateral: Endorsements) -> DcapNeed:
    """Return which platforms a set of collateral is for, as it says itself."""
    tcb_info = strict_json(collateral.tcb_info, source)
    try:
        issuer = x509.load_pem_x509_certificates(collateral.pck_crl_issuer_chain.encode())[0]
        words = _common_name(issuer.subject).lower().split()
        (ca,) = (one for one in PckCa if one in words)
        return DcapNeed(tee=Tee(tcb_info["id"].lower()), fmspc=str(tcb_info["fmspc"]).upper(), ca=ca)
    except (*UNREADABLE, KeyError, AttributeError, IndexError) as error:
        raise EndorsementError(f"{source} does not say which platforms it is for: {error}", _FIX) from None


def _amd(files: list[tuple[str, bytes]]) -> Iterator[Named]:
    """Yield chains, lists and VCEKs; a chain's two certificates may come in two files."""
    chains: dict[SnpProduct, list[tuple[str, bytes]]] = {}
    for source, content in files:
        one = SnpEndorsements.of([content])
        if one.vek is not None:
            yield _vcek_name(source, one.vek), one.vek, source
        for part in (one.root, one.ask, one.asvk):
            if part is not None:
                line = _line(source, x509.load_der_x509_certificate(part).subject)
                chains.setdefault(line, []).append((source, part))
        if one.crl is not None:
            line = _line(source, x509.load_der_x509_crl(one.crl).issuer)
            for key in SnpKey:
                yield names.amd_crl(line, key), one.crl, source
    for line, parts in chains.items():
        yield from _chains(line, parts)


def _chains(line: SnpProduct, parts: list[tuple[str, bytes]]) -> Iterator[Named]:
    source = parts[0][0]
    both = SnpEndorsements.of(part for _, part in parts)
    if both.root is None or (both.ask is None and both.asvk is None):
        raise EndorsementError(f"{source} is half of a chain: ARK and ASK or ASVK belong together", _FIX)
    for key, signer in ((SnpKey.VCEK, both.ask), (SnpKey.VLEK, both.asvk)):
        if signer is not None:
            yield names.amd_chain(line, key), _pem(signer) + _pem(both.root), source


def _vcek_name(source: str, der: bytes) -> str:
    """Return the name under which a VCEK is looked up: chip id and TCB stand in its extensions."""
    certificate = x509.load_der_x509_certificate(der)
    line = _line(source, certificate.issuer)
    values = {
        extension.oid.dotted_string: extension.value.value
        for extension in certificate.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    spls = {part: values.get(f"{_AMD}.3.{arc}") for part, arc in _SPLS.items()}
    chip_id = values.get(f"{_AMD}.4")
    numbers = {part: int.from_bytes(raw[2:], "big") for part, raw in spls.items() if raw is not None}
    if chip_id is None or not {"bootloader", "tee", "snp", "microcode"} <= numbers.keys():
        raise EndorsementError(f"{source} is no VCEK: a VLEK comes with the Evidence and is not kept", _FIX)
    return names.vcek(line, chip_id, SnpTcb(**numbers))


def _line(source: str, name: x509.Name) -> SnpProduct:
    words = _common_name(name).split("-")  # "ARK-Milan", "SEV-Milan", "SEV-VLEK-Milan"
    for line in SnpProduct:
        if line in words:
            return line
    raise EndorsementError(f"{source} names no product line of AMD: {'-'.join(words)!r}", _FIX)


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
