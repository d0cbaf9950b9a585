"""Rules for the ports of clients that are no members, and for receipts."""

import base64
import binascii
from typing import NoReturn

from securetf.errors import ManifestValueError
from securetf.manifest.convert import dotted
from securetf.manifest.types import Manifest, Workload

# DER up to the key, and the key's size in bytes: RFC 8410 section 4; RFC 5480 section 2.1.1, uncompressed.
_KINDS = {
    "Ed25519": (bytes.fromhex("302a300506032b6570032100"), 32),
    "P-256": (bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"), 64),
    "P-384": (bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"), 96),
}
_STATEMENT = "securetf-statement/"  # the relay answers these itself


def check(manifest: Manifest) -> None:
    """Raise ManifestValueError for the first rule that clashes with another or names what is no key."""
    for name, workload in manifest.workloads.items():
        _outside(name, workload)
        if workload.receipts and not (workload.outside or workload.listen):
            _refuse(
                f"`{dotted('workloads', name, 'receipts')}` is set, but nobody can reach {name}",
                f"add `[{dotted('workloads', name, 'outside')}]` or `listen`, or remove the key",
            )


def spki(pem: str) -> bytes:
    """Return the DER SubjectPublicKeyInfo in a PEM text. Raises ManifestValueError unless of a known kind."""
    return _spki(pem, "clients")


def _outside(name: str, workload: Workload) -> None:
    base = ("workloads", name)
    ports = {rule.port: dotted(*base, "listen", one) for one, rule in workload.listen.items()}
    public: dict[int, str] = {}
    for one, rule in workload.outside.items():
        key = dotted(*base, "outside", one)
        if rule.port in ports:
            _refuse(
                f"`{key}` has the port {rule.port}, which `{ports[rule.port]}` has too",
                "let the program listen on a port of its own for each rule",
            )
        if rule.public in public:
            _refuse(
                f"`{key}` has the public port {rule.public}, which `{public[rule.public]}` has too",
                "give each rule a public port of its own",
            )
        ports[rule.port], public[rule.public] = key, key
        for protocol in rule.alpn:
            if protocol.startswith(_STATEMENT):
                _refuse(
                    f"`{key}.alpn` names {protocol}, which the shield answers itself",
                    "name what the program speaks, such as h2",
                )
        keys = [_spki(pem, f"{key}.clients") for pem in rule.clients or ()]
        if len(set(keys)) != len(keys):
            _refuse(f"`{key}.clients` names a key twice", "remove one of them")


def _spki(pem: str, key: str) -> bytes:
    body = "".join(pem.strip().splitlines()[1:-1])
    try:
        der = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        der = b""
    for prefix, size in _KINDS.values():
        if der.startswith(prefix) and len(der) == len(prefix) + size:
            return der
    raise ManifestValueError(
        f"`{key}` holds a public key that is none of {', '.join(_KINDS)}",
        "make one with `openssl genpkey -algorithm ed25519`, and name what `openssl pkey -pubout` prints",
    )


def _refuse(problem: str, fix: str) -> NoReturn:
    raise ManifestValueError(problem, fix)
