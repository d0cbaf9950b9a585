"""When an artefact counts, by its own dates: what drives the cache. Nothing here authenticates anything."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from securetf.endorsements import bundles
from securetf.endorsements.dcap import Endorsements, strict_json
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import EndorsementError

_VALIDITY = ("not_valid_before_utc", "not_valid_after_utc")
_FIX = "fetch it again, from the vendor's own service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From when to when, UTC, and which part ends it."""

    start: datetime
    end: datetime
    ends_with: str

    def holds(self, now: datetime) -> bool:
        """Return whether `now` is inside."""
        return self.start <= now <= self.end

    def problem(self, what: str, now: datetime) -> str:
        """Return why `what` does not count at `now`, for an error."""
        if now < self.start:
            return f"{what} is issued in the future: {self.start:%F %T}, now {now:%F %T}"
        return f"{what} expired at {self.end:%F %T} (its {self.ends_with}), now {now:%F %T}"


def of_dcap(endorsements: Endorsements) -> Window:
    """Return when a set of collateral counts: both documents, both CRLs, and the certificates above them.

    Raises:
        EndorsementError: a part cannot be read, or does not say when it expires.
    """
    windows = [
        _document("TCB info", endorsements.tcb_info),
        _document("QE identity", endorsements.qe_identity),
        of_crl("PCK CRL", endorsements.pck_crl),
        of_crl("root CA CRL", endorsements.root_ca_crl),
    ]
    for what in ("pck_crl", "tcb_info", "qe_identity"):
        windows.append(of_certificates(f"{what} issuers", getattr(endorsements, f"{what}_issuer_chain")))
    return _joined(windows)


def of_certificates(what: str, content: str | bytes) -> Window:
    """Return when certificates (PEM, one or more; or one in DER) all count.

    Raises:
        EndorsementError: they cannot be read.
    """
    raw = content.encode() if isinstance(content, str) else content
    try:
        if raw.lstrip().startswith(b"-----"):
            certificates = x509.load_pem_x509_certificates(raw)
        else:
            certificates = [x509.load_der_x509_certificate(raw)]
        windows = [
            Window(start=one.not_valid_before_utc, end=one.not_valid_after_utc, ends_with=what)
            for one in certificates
        ]
    except UNREADABLE as error:
        raise EndorsementError(f"{what}: not certificates: {error}", _FIX) from None
    return _joined(windows)


def of_issuers(what: str, content: bytes) -> Window:
    """Return when at least one of several certificates counts: each has its own time where it is used.

    Raises:
        EndorsementError: they cannot be read.
    """
    try:
        found = bundles.read(content)
        starts, ends = ([getattr(one, name) for one in found] for name in _VALIDITY)
    except UNREADABLE as error:
        raise EndorsementError(f"{what}: not certificates: {error}", _FIX) from None
    return Window(start=min(starts), end=max(ends), ends_with=what)


def of_crl(what: str, der: bytes) -> Window:
    """Return when a revocation list counts.

    Raises:
        EndorsementError: it cannot be read, or has no nextUpdate.
    """
    try:
        crl = x509.load_der_x509_crl(der)
        start, end = crl.last_update_utc, crl.next_update_utc
    except UNREADABLE as error:
        raise EndorsementError(f"{what}: not a revocation list: {error}", _FIX) from None
    if end is None:
        raise EndorsementError(f"{what} does not say when it expires", _FIX)
    return Window(start=start, end=end, ends_with=what)


def _document(what: str, text: str) -> Window:
    parsed = strict_json(text, what)
    try:
        start, end = (_moment(parsed[name]) for name in ("issueDate", "nextUpdate"))
    except (KeyError, TypeError, ValueError):
        raise EndorsementError(f"{what} does not say when it was issued and expires", _FIX) from None
    return Window(start=start, end=end, ends_with=what)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _joined(windows: list[Window]) -> Window:
    first = min(windows, key=lambda window: window.end)
    return Window(start=max(window.start for window in windows), end=first.end, ends_with=first.ends_with)
