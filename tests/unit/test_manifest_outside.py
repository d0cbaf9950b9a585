"""`outside` and `receipts` in a Manifest: what is refused, what the relay is told, what stays as it was."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetf import manifest as manifests
from securetf.cli.manifest import command
from securetf.errors import ManifestValueError
from securetf.manifest import network


def pem(key: object) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
}


def text(rules: str, more: str = "") -> str:
    return f"""
[session]
name = "acme/digits"
[workloads.server]
command = ["serve"]
{more}
[workloads.server.outside]
{rules}
"""


REST = "rest = { port = 8501, public = 443 }"


def test_policy_tells_the_relay_port_protocols_and_the_keys_as_der() -> None:
    clients = json.dumps([pem(key) for key in KEYS.values()])
    manifest = manifests.parse(
        text(
            f"rest = {{ port = 8501, public = 443, clients = {clients} }}\n"
            'grpc = { port = 8500, public = 8443, alpn = ["h2"], clients = [] }\n'
            "any = { port = 80, public = 80 }"
        )
    )
    ders = [
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
        for key in KEYS.values()
    ]
    assert json.loads(network.policy(manifest, "server", 0, "domain"))["outside"] == [
        {"name": "any", "port": 80, "alpn": ["http/1.1", "h2"], "clients": None},
        {"name": "grpc", "port": 8500, "alpn": ["h2"], "clients": []},
        {"name": "rest", "port": 8501, "alpn": ["http/1.1", "h2"], "clients": ders},
    ]


RSA = json.dumps(pem(rsa.generate_private_key(65537, 2048)))
ED = json.dumps(pem(KEYS["ed25519"]))
AGAIN = json.dumps(pem(KEYS["ed25519"]).strip())


@pytest.mark.parametrize(
    ("rules", "more", "reason"),
    [
        (REST, "listen = { grpc = { port = 8501, from = [\"server\"] } }\nconnect = [\"server:grpc\"]",
         "which `workloads.server.listen.grpc` has too"),
        (REST + "\ngrpc = { port = 8501, public = 8443 }", "", "port 8501, which"),
        (REST + "\ngrpc = { port = 8500, public = 443 }", "", "public port 443, which"),
        ("rest = { port = 8501 }", "", "public` is missing"),
        ("rest = { port = 0, public = 1 }", "", "1 to 65535"),
        ("rest = { port = 1, public = 1, alpn = [] }", "", "empty list"),
        ('rest = { port = 1, public = 1, alpn = ["securetf-statement/1"] }', "", "shield answers itself"),
        ('rest = { port = 1, public = 1, clients = ["key"] }', "", "public key as PEM"),
        (f"rest = {{ port = 1, public = 1, clients = [{RSA}] }}", "", "none of Ed25519, P-256, P-384"),
        (f"rest = {{ port = 1, public = 1, clients = [{ED}, {AGAIN}] }}", "",
         "a key twice"),
        (f"rest = {{ port = 1, public = 1, client = [{ED}] }}", "", "did you mean|not a known key"),
    ],
)  # fmt: skip
def test_parse_when_a_rule_clashes_or_is_no_rule_says_so(rules: str, more: str, reason: str) -> None:
    with pytest.raises(ManifestValueError) as refused:
        manifests.parse(text(rules, more))
    assert any(one in str(refused.value) for one in reason.split("|")), refused.value


def test_receipts_when_nobody_can_reach_the_workload_are_refused() -> None:
    with pytest.raises(ManifestValueError, match="nobody can reach server"):
        manifests.parse(text("", "receipts = true").replace("[workloads.server.outside]", ""))
    assert manifests.parse(text(REST, "receipts = true")).workloads["server"].receipts


def test_hash_of_a_manifest_without_the_keys_is_as_before() -> None:
    plain = text("").replace("[workloads.server.outside]", "")
    canonical = manifests.canonical(manifests.parse(plain))
    assert b"outside" not in canonical
    assert b"receipts" not in canonical
    assert manifests.canonical(manifests.parse(text(REST))) != canonical


def test_diff_when_a_client_key_is_added_says_which() -> None:
    old = manifests.parse(text("rest = { port = 1, public = 2, clients = [] }"))
    new = manifests.parse(text(f"rest = {{ port = 1, public = 2, clients = [{ED}] }}"))
    (line,) = manifests.diff(old, new)
    assert line.startswith("workloads.server.outside.rest.clients now names")


def test_check_shows_who_may_come_in_from_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(text(f"{REST}\ngrpc = {{ port = 1, public = 2, clients = [{ED}] }}"))
    command.main(["check", str(path)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "outside to server:rest (anybody)" in shown
    assert "outside to server:grpc (1 client key)" in shown
    assert "note: `workloads.server.outside.rest.clients` is absent" in shown
