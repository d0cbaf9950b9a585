"""VerifiedClaims on their way from a process that verified to the one that asked for it, both of one CAS."""

from dataclasses import fields
from typing import Any

from securetf.claims import VerifiedClaims


def pack(claims: VerifiedClaims) -> dict[str, Any]:
    """Return the fields as values that `pickle` takes."""
    values = {entry.name: getattr(claims, entry.name) for entry in fields(claims)}
    return values | {name: dict(values[name]) for name in ("registers", "properties")}


def unpack(values: dict[str, Any]) -> VerifiedClaims:
    """Return the claims that `pack` took apart. Never give it what came from outside of the process group."""
    return VerifiedClaims(**values)
