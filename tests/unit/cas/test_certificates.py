"""X.509-SVIDs: exactly the fields of docs/formats/x509-svid.md, which independent verifiers accept."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from securetf.cas.service import certificates
from securetf.cas.service.rows import AuthorityRow
from securetf.cas.store import Transaction
from securetf.identity import SpiffeId

PAGE = Path(__file__).parents[3] / "docs/formats/x509-svid.md"
NOW = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
MEMBER = SpiffeId("ab" * 32, "acme/digits", "worker", 3)


def authority(transaction: Transaction | None = None, session: str = "acme/digits") -> AuthorityRow:
    transaction = transaction or Transaction(lambda _table, _key: None, log_length=0, log_digest=bytes(32))
    return certificates.authority(transaction, session, trust_domain="ab" * 32, now=NOW)


def leaf_of(row: AuthorityRow, lifetime_s: int = 3600, now: datetime = NOW) -> x509.Certificate:
    end = certificates.not_after(row, lifetime_s=lifetime_s, now=now)
    der = certificates.issue(
        row,
        spiffe_id=MEMBER,
        key=generate_private_key(SECP256R1()).public_key(),
        manifest_hash=b"M" * 32,
        generation=258,
        now=now,
        end=end,
    )
    return x509.load_der_x509_certificate(der)


def root_of(row: AuthorityRow) -> x509.Certificate:
    return x509.load_der_x509_certificate(row.certificate)


def verify(leaf: x509.Certificate, root: x509.Certificate, now: datetime = NOW) -> list[str]:
    policy = verification.PolicyBuilder().store(verification.Store([root])).time(now)
    subjects = policy.build_client_verifier().verify(leaf, []).subjects
    assert subjects is not None
    return [str(name.value) for name in subjects]


def test_authority_when_asked_again_is_the_same_and_of_another_session_another() -> None:
    transaction = Transaction(lambda _table, _key: None, log_length=0, log_digest=bytes(32))
    first = authority(transaction)
    assert authority(transaction) == first
    assert authority(transaction, "acme/other").private != first.private


def test_authority_when_made_is_a_ca_of_its_own_for_ten_years() -> None:
    root = root_of(authority())
    assert root.issuer == root.subject
    root.verify_directly_issued_by(root)
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    assert root.not_valid_before_utc == datetime(2026, 11, 22, 11, 59, tzinfo=UTC)
    assert root.not_valid_after_utc == datetime(2036, 11, 19, 12, 0, tzinfo=UTC)


def test_leaf_when_issued_has_the_fields_of_the_page_and_no_other() -> None:
    row = authority()
    leaf = leaf_of(row)
    assert verify(leaf, root_of(row)) == [str(MEMBER)]
    assert leaf.subject == x509.Name([])
    found = {extension.oid.dotted_string: extension for extension in leaf.extensions}
    assert {oid: extension.critical for oid, extension in found.items()} == {
        "2.5.29.14": False,
        "2.5.29.35": False,
        "2.5.29.15": True,
        "2.5.29.17": True,
        "2.5.29.19": True,
        "2.5.29.37": False,
        certificates.MEMBER_OID.dotted_string: False,
    }
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(str(MEMBER))]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    value = found[certificates.MEMBER_OID.dotted_string].value
    assert isinstance(value, x509.UnrecognizedExtension)
    assert value.value == b"\x04\x28" + b"M" * 32 + bytes([0, 0, 0, 0, 0, 0, 1, 2])
    assert leaf.not_valid_before_utc == datetime(2026, 11, 22, 11, 59, tzinfo=UTC)
    assert leaf.not_valid_after_utc == datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


def test_page_when_it_names_the_identifier_has_it_in_digits_and_in_der() -> None:
    text = PAGE.read_text()
    assert f"| {certificates.MEMBER_OID.dotted_string} |" in text
    number, groups = int(certificates.MEMBER_OID.dotted_string.removeprefix("2.25.")), [0x69]
    parts = [number >> shift & 0x7F for shift in range(126, -1, -7)]
    groups += [part | 0x80 for part in parts[:-1]] + [parts[-1]]
    assert f"`{' '.join(f'{group:02x}' for group in groups)}`" in text


def test_serials_when_many_are_made_are_random_and_positive() -> None:
    row = authority()
    serials = {leaf_of(row).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert all(0 < serial < 1 << 159 for serial in serials)


@pytest.mark.parametrize(("seconds", "accepted"), [(-61, False), (-59, True), (3599, True), (3601, False)])
def test_leaf_when_the_verifiers_clock_differs_holds_from_a_minute_before_until_its_end(
    seconds: int, accepted: bool
) -> None:
    row = authority()
    leaf, now = leaf_of(row), NOW.replace(microsecond=0) + timedelta(seconds=seconds)
    if accepted:
        verify(leaf, root_of(row), now)
    else:
        with pytest.raises(verification.VerificationError, match="not valid at validation time"):
            verify(leaf, root_of(row), now)


def test_leaf_when_the_authority_ends_soon_ends_with_it() -> None:
    row = authority()
    late = root_of(row).not_valid_after_utc - timedelta(seconds=10)
    assert leaf_of(row, now=late).not_valid_after_utc == root_of(row).not_valid_after_utc


def test_leaf_when_checked_against_another_session_does_not_verify() -> None:
    with pytest.raises(verification.VerificationError):
        verify(leaf_of(authority()), root_of(authority()))
