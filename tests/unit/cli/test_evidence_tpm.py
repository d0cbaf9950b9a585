"""`securetf evidence show|verify` for Nitro, TPM, Azure and Google: each kind is known by its bytes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.cli import evidence
from securetf.errors import (
    BindingError,
    ConfigurationError,
    MalformedEvidenceError,
    MeasurementError,
    PlatformNotAllowedError,
    SignatureError,
    UsageError,
)
from securetf.evidence import tpm2_quote
from support.authority import NOW, Authority
from support.azure import Machine
from support.nitro import MODULE, REPORT_DATA, make_module
from support.tpm2 import make_tpm


def run(*arguments: object) -> Any:
    return CliRunner().invoke(evidence.command, [str(one) for one in arguments], catch_exceptions=True)


def write(tmp_path: Path, name: str, content: bytes | str) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def verify_arguments(
    tmp_path: Path, raw: bytes, root: Authority | None, nonce: bytes = REPORT_DATA
) -> list[object]:
    pem = b"" if root is None else root.certificate.public_bytes(Encoding.PEM)
    roots = [] if root is None else ["--root", write(tmp_path, "root.pem", pem)]
    file = write(tmp_path, f"evidence-{hashlib.sha256(raw).hexdigest()[:8]}", raw)
    return ["verify", file, "--nonce", nonce.hex(), "--at", NOW.isoformat(), "--json", *roots]


def results(outcome: Any) -> list[str]:
    return [check["result"] for check in json.loads(outcome.output.splitlines()[0])["checks"]]


def test_show_when_nitro_document_then_its_fields(tmp_path: Path) -> None:
    module = make_module()
    outcome = run("show", write(tmp_path, "document", module.document(nonce=b"n")), "--json")
    facts = json.loads(outcome.output)
    assert (facts["platform"], facts["module_id"], facts["debug"]) == ("nitro", MODULE, False)
    assert (facts["nonce"], facts["user_data"], facts["authenticated"]) == ("6e", REPORT_DATA.hex(), False)
    assert facts["certificates"] == ["CN=leaf", "CN=instance", "CN=zone", "CN=root"]
    assert "not authenticated" in run("show", tmp_path / "document").output


def test_show_when_tpm_or_azure_evidence_then_its_fields(tmp_path: Path) -> None:
    facts = json.loads(run("show", write(tmp_path, "tpm", make_tpm().evidence()), "--json").output)
    assert (facts["platform"], facts["bank"], facts["events"]) == ("tpm2", "sha256", 12)
    assert (facts["ak_attributes"], facts["reset_count"]) == ("0x50072", 2)
    machine = Machine(rsa.generate_private_key(65537, 2048))
    raw = json.dumps(machine.envelope())
    facts = json.loads(run("show", write(tmp_path, "azure", raw), "--json").output)
    assert (facts["platform"], facts["hardware"]) == ("azure_vtpm", "tdx")
    assert facts["vm_configuration"] == {"secure-boot": True}
    assert "secure-boot True" in run("show", tmp_path / "azure").output
    indented = "\n" + json.dumps(machine.envelope(), indent=4)  # as some attesters write it
    assert "secure-boot True" in run("show", write(tmp_path, "indented", indented)).output


def test_show_when_a_quote_of_tpm2_tools_stands_alone_then_its_fields(tmp_path: Path) -> None:
    quote = make_tpm().quote()
    raw = tpm2_quote.encode_quote(quote)
    facts = json.loads(run("show", write(tmp_path, "quote.msg", raw), "--json").output)
    assert facts["extra_data"] == quote.extra_data.hex()
    assert (facts["pcrs"], facts["pcr_digest"]) == (
        [str(one) for one in quote.selection],
        quote.pcr_digest.hex(),
    )
    assert isinstance(run("show", write(tmp_path, "cut", raw[:-1])).exception, MalformedEvidenceError)


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (tpm2_quote.encode_quote(make_tpm().quote()), "collect TPM Evidence"),
        (
            bytes(4) + (1184).to_bytes(4, "little") + bytes(24) + b"\2" + bytes(1183),
            "cut off its first 32 bytes",
        ),
        (b'ak_pub: "\\000\\001"', "gotpm attest --format binarypb"),
        (b'{"tpm_quote": {"message": "/1RDR4AY"}}', "decode the quote in it (base64 -d) to a file"),
        (b"something else", "as the platform gave it"),
    ],
)
def test_verify_when_a_tool_writes_another_form_then_says_how_to_get_evidence(
    tmp_path: Path, content: bytes, fix: str
) -> None:
    outcome = run(*verify_arguments(tmp_path, content, None))
    assert isinstance(outcome.exception, MalformedEvidenceError)
    assert fix in outcome.exception.fix


def test_show_when_a_known_kind_is_damaged_then_refused(tmp_path: Path) -> None:
    raw = make_tpm().evidence()
    for content in (raw[:-1], raw + b"\0", b'{"version": 1}', make_module().document()[:-1]):
        outcome = run("show", write(tmp_path, "file", content))
        assert isinstance(outcome.exception, MalformedEvidenceError)


def test_verify_nitro_when_all_holds_then_each_check_passes(tmp_path: Path) -> None:
    module = make_module()
    policy = f'[appraisal.nitro.pcrs]\npcr0 = ["{"01" * 48}"]\n'
    outcome = run(
        *verify_arguments(tmp_path, module.document(), module.root),
        *("--policy", write(tmp_path, "policy.toml", policy)),
    )
    assert outcome.exit_code == 0, outcome.output
    assert results(outcome) == ["passed"] * 7
    verdict = json.loads(outcome.output)
    assert (verdict["accepted"], verdict["claims"]["pcr0"]) == (True, "01" * 48)
    with_nonce = module.document(nonce=b"fresh")
    assert run(*verify_arguments(tmp_path, with_nonce, module.root, b"fresh")).exit_code == 0
    longest = module.document(nonce=bytes(range(256)) * 2)
    assert run(*verify_arguments(tmp_path, longest, module.root, bytes(range(256)) * 2)).exit_code == 0
    other = run(*verify_arguments(tmp_path, longest, module.root, bytes(512)))
    assert isinstance(other.exception, BindingError)
    for nonce, raw, expected in (
        (bytes(513), longest, "1 to 512"),
        (bytes(65), make_tpm().evidence(), "1 to 64"),
    ):
        outcome = run(*verify_arguments(tmp_path, raw, module.root, nonce))
        assert isinstance(outcome.exception, UsageError)
        assert f"has {len(nonce)} bytes, expected {expected}" in str(outcome.exception)


def test_verify_nitro_when_one_part_fails_then_that_check_is_named(tmp_path: Path) -> None:
    module = make_module()
    debug = {index: bytes(48) for index in range(16)}
    for arguments, step, error in (
        (verify_arguments(tmp_path, module.document(), None), 2, SignatureError),
        (verify_arguments(tmp_path, module.document(pcrs=debug), module.root), 5, ConfigurationError),
        (verify_arguments(tmp_path, module.document(), module.root, b"other"), 6, BindingError),
    ):
        outcome = run(*arguments)
        assert isinstance(outcome.exception, error)
        assert results(outcome).index("REFUSED") == step - 1


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (f'[appraisal.nitro.pcrs]\npcr0 = ["{"02" * 48}"]\n', MeasurementError),
        (f'[appraisal.nitro.pcrs]\npcr1 = ["{"02" * 48}"]\n', MeasurementError),
        (f'[appraisal.tpm2.pcrs]\npcr0 = ["{"02" * 48}"]\n', PlatformNotAllowedError),
    ],
)
def test_verify_nitro_when_the_policy_does_not_fit_then_refused(
    tmp_path: Path, policy: str, error: type[Exception]
) -> None:
    module = make_module()
    outcome = run(
        *verify_arguments(tmp_path, module.document(), module.root),
        *("--policy", write(tmp_path, "policy.toml", policy)),
    )
    assert isinstance(outcome.exception, error)


def test_verify_tpm_when_certified_or_enrolled_then_accepted_and_else_refused(tmp_path: Path) -> None:
    tpm = make_tpm()
    outcome = run(*verify_arguments(tmp_path, tpm.evidence(), tpm.root))
    assert results(outcome) == [*["passed"] * 7, "not asked for"]
    enrolled = tpm.evidence(certificates=())
    outcome = run(*verify_arguments(tmp_path, enrolled, None))
    assert isinstance(outcome.exception, SignatureError)
    assert results(outcome)[2] == "REFUSED"
    enrolment = write(tmp_path, "enrolment.json", tpm.known.to_json())
    outcome = run(*verify_arguments(tmp_path, enrolled, None), "--endorsements", enrolment)
    assert outcome.exit_code == 0
    assert json.loads(outcome.output)["claims"]["platform_id"] == tpm.known.ek_sha256.hex()


def test_verify_azure_when_the_hardware_part_is_none_then_check_2_is_refused(tmp_path: Path) -> None:
    machine = Machine(rsa.generate_private_key(65537, 2048))
    raw = json.dumps(machine.envelope()).encode()
    outcome = run(*verify_arguments(tmp_path, raw, None))
    assert isinstance(outcome.exception, MalformedEvidenceError)
    assert results(outcome)[:3] == ["passed", "REFUSED", "not reached"]


def test_verify_when_a_simulation_of_these_is_asked_for_then_refused(tmp_path: Path) -> None:
    tpm = make_tpm()
    arguments = verify_arguments(tmp_path, tpm.evidence(), tpm.root)
    outcome = run(*arguments, "--insecure-simulation-root", tmp_path / "root.pem")
    assert isinstance(outcome.exception, UsageError)
    assert "there is no simulation of tpm2" in str(outcome.exception)
