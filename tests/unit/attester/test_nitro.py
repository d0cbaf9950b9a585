"""The attester of Nitro enclaves, against answers as the module gives them."""

from pathlib import Path

import pytest

from securetf.attester.nitro import NitroAttester, device
from securetf.errors import AttesterError
from securetf.evidence import cbor
from securetf.verifier.nitro import NitroVerifier
from support.authority import NOW
from support.nitro import REPORT_DATA, make_module


def test_attest_when_the_module_answers_then_the_document_verifies() -> None:
    module = make_module()

    def exchange(request: bytes) -> bytes:
        question = cbor.decode(request)
        assert question == {"Attestation": {"user_data": REPORT_DATA, "nonce": None, "public_key": None}}
        return cbor.encode({"Attestation": {"document": module.document()}})

    evidence = NitroAttester(exchange).attest(REPORT_DATA)
    claims = NitroVerifier(module.root.anchors).verify(evidence, expected_report_data=REPORT_DATA, now=NOW)
    assert claims.report_data == REPORT_DATA


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (cbor.encode({"Error": "InvalidArgument"}), "the NSM refused: 'InvalidArgument'"),
        (cbor.encode({"GetRandom": {"random": b"x"}}), "neither a document nor an error"),
        (b"\xff", "answer cannot be read"),
        (b"", "answer cannot be read"),
    ],
)
def test_attest_when_the_module_gives_no_document_then_refused(answer: bytes, reason: str) -> None:
    with pytest.raises(AttesterError, match=reason):
        NitroAttester(lambda _: answer).attest(REPORT_DATA)


def test_attest_when_report_data_has_another_size_then_refused() -> None:
    with pytest.raises(AttesterError, match="report data has 32 bytes"):
        NitroAttester(lambda _: b"").attest(bytes(32))


def test_device_when_absent_or_not_a_security_module_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match="cannot be opened: No such file"):
        device(tmp_path / "nsm")(b"")
    with pytest.raises(AttesterError, match="did not answer"):
        device(Path("/dev/null"))(b"\0")
