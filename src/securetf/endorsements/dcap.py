"""DCAP collateral as a value: TCB info, QE identity, CRLs and their issuers' chains (Intel PCS API v4)."""

import json
from dataclasses import dataclass, field, fields
from typing import Any

from securetf.errors import EndorsementError

SIZE_LIMIT = 256 * 1024  # bytes of JSON; genuine sets have 14 to 21 KB
SIGNATURE_SIZE = 64  # r then s, big endian

_HEX = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
_FIX = "fetch the collateral of this platform again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """One platform's collateral, not authenticated: the verifier checks every signature and window in it.

    *_chain: PEM, signer first, root last. *_crl: DER. tcb_info, qe_identity: the exact JSON text that was
    signed. *_signature: 64 bytes, r then s, big endian.
    """

    pck_crl_issuer_chain: str = field(repr=False)
    root_ca_crl: bytes = field(repr=False)
    pck_crl: bytes = field(repr=False)
    tcb_info_issuer_chain: str = field(repr=False)
    tcb_info: str = field(repr=False)
    tcb_info_signature: bytes = field(repr=False)
    qe_identity_issuer_chain: str = field(repr=False)
    qe_identity: str = field(repr=False)
    qe_identity_signature: bytes = field(repr=False)

    @staticmethod
    def from_json(text: str | bytes) -> "Endorsements":
        """Read the JSON form: one object, the nine fields as strings, CRLs and signatures in hex.

        Raises:
            EndorsementError: too long, not JSON, a name twice, unknown or missing, a value of the wrong form.
        """
        parsed = strict_json(text, "collateral")
        names = [entry.name for entry in fields(Endorsements)]
        if not isinstance(parsed, dict) or sorted(parsed) != sorted(names):
            raise EndorsementError(
                f"collateral is not an object with exactly the names {', '.join(names)}", _FIX
            )
        values: dict[str, Any] = {}
        for name in names:
            values[name] = _text(name, parsed[name])
        for name in ("tcb_info_signature", "qe_identity_signature"):
            if len(values[name]) != SIGNATURE_SIZE:
                raise EndorsementError(f"{name} has {len(values[name])} bytes, expected 64", _FIX)
        return Endorsements(**values)

    def to_json(self) -> str:
        """Return the JSON form that `from_json` reads."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return json.dumps({name: value.hex() if name in _HEX else value for name, value in values.items()})


def strict_json(text: str | bytes, what: str, *, limit: int = SIZE_LIMIT) -> Any:
    """Return parsed JSON of at most `limit` bytes; duplicate names and NaN are errors. `what` names it
    in errors.

    Raises:
        EndorsementError: not such a text.
    """
    if len(text) > limit:
        raise EndorsementError(f"{what} has {len(text)} bytes, at most {limit} are read", _FIX)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise EndorsementError(f"{what} is not strict JSON: {error}", _FIX) from None


def _text(name: str, value: object) -> str | bytes:
    if not isinstance(value, str):
        raise EndorsementError(f"{name} is not a string", _FIX)
    try:
        if name not in _HEX:
            value.encode()  # a lone surrogate is no text
            return value
        return bytes.fromhex(value)
    except ValueError:
        what = "hexadecimal" if name in _HEX else "text"
        raise EndorsementError(f"{name} is not {what}", _FIX) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, value in pairs:
        if name in names:
            raise ValueError(f"{name!r} stands twice in one object")
        names[name] = value
    return names


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
