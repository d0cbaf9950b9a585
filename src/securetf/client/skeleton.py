"""Writes a policy that accepts a service as it is now: a beginning for the person who decides.

The chain from the pinned CAS down to the TLS key is verified; only which values are right is left open.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securetf.appraisal import ear
from securetf.appraisal.ear import EarClaims
from securetf.appraisal.reference_values import reference_values
from securetf.appraisal.relying import ResultClaims, result_claims
from securetf.cas_client.trust import load_trust
from securetf.client.checks import verify
from securetf.client.legs import attested_key
from securetf.client.observation import Observation, read_statement
from securetf.client.policy import parse_policy
from securetf.client.verdict import Verdict
from securetf.identity import SpiffeId
from securetf.wire.statement import Binding, check_token_key, read_binding

_LIFETIME = timedelta(days=90)


def write_policy(observation: Observation, trust_file: Path, *, now: datetime) -> tuple[str, Verdict]:
    """Return the text of a policy, and the verdict over the service under that policy.

    trust_file: of the CAS, `securetf cas attest` wrote it.

    Raises:
        CasIdentityError: the trust file cannot be used. StatementError, TokenError: nothing can be read in
        the statement that the pinned CAS stands behind.
    """
    trust = load_trust(trust_file)
    statement = read_statement(observation.statement)
    key = check_token_key(
        statement.cas.token_key, cas=trust.spki_sha256, audit_public_key=bytes.fromhex(trust.audit_public_key)
    )
    token = ear.authenticate(statement.ear, keys={ear.key_id(key): key})
    binding = read_binding(statement.binding, attested_key(token))
    text = "\n".join(_lines(trust_file, token, result_claims(token)[0], binding, now)) + "\n"
    policy = parse_policy(text.encode(), directory=Path())
    return text, verify(observation, policy, now=now)


def _lines(
    trust_file: Path, token: EarClaims, claims: ResultClaims, binding: Binding, now: datetime
) -> Iterator[str]:
    subject = SpiffeId.parse(token.subject)
    yield "# Written from what the service shows now. It is true that it shows this; whether they are the"
    yield "# right values you must learn from somebody else: measurements from whoever reviewed the software,"
    yield "# the Manifest hash and roots from the owners of the session. docs/how-to/verify-a-service.md"
    yield "version = 1"
    yield f'expires = "{now + _LIFETIME:%Y-%m-%dT00:00:00Z}"'
    yield ""
    yield "[cas]"
    yield f"trust = {_text(str(trust_file.absolute()))}"
    yield ""
    yield "[service]"
    yield f"session = {_text(subject.session)}"
    yield f"workload = {_text(subject.workload)}"
    yield f"manifest_hashes = [{_text(binding.manifest_hash)}]"
    for name, volume in sorted(binding.volumes.items()):
        yield ""
        yield f"[service.volumes.{_text(name)}]"
        if volume.writable:
            yield "# the service writes it: its root changes"
        else:
            yield f"roots = [{_text(volume.root)}]"
        yield f"minimum_epoch = {volume.epoch}"
    yield ""
    if token.simulated:
        yield "# A SIMULATION. Whoever runs the service can read what you send to it."
        yield "[insecure_simulation]"
    else:
        yield f"[appraisal.{claims.platform.value}]"
    table = reference_values(claims, any_machine=True)
    if table.get("tolerate"):
        yield "# The machine has what stands under `tolerate`; weigh it before you accept it."
    yield from _table(table)


def _table(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of a table of text, numbers, lists and tables, each on a line of its own."""
    for name, value in table.items():
        yield f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_value(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return _text(value) if isinstance(value, str) else str(int(value))


def _text(value: str) -> str:
    """Return a TOML string; what the service sent cannot leave it."""
    clean = "".join(char if char.isprintable() else "?" for char in value)
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
