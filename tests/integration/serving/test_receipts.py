"""Receipts: what they hold, that they follow renewals, and that none is given without an identity."""

import base64
import hashlib
import json
import os

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey

from securetf.serving.errors import ReceiptError
from securetf.serving.identity import Identity
from securetf.serving.protocols import message
from securetf.serving.receipts import Signer
from support.service import put, serving

BODY = b'{"instances": [[1, 2, 3, 4]]}'
BOUND = {"session": "clinic", "workload": "server", "instance": 0, "manifest_hash": "ab" * 32}


def token(claims: dict, key: ECKey) -> str:
    """Return a compact JWS."""
    return jws.serialize_compact({"alg": "ES256"}, json.dumps(claims), key)


def write(folder, name: str, content: str) -> None:
    """Replace a file as the launcher does it: whole at once."""
    (folder / f".{name}").write_text(content)
    os.replace(folder / f".{name}", folder / name)


@pytest.fixture
def identity(tmp_path):
    """An identity directory as the launcher makes it, for a volume mounted where the models are."""
    folder = tmp_path / "identity"
    folder.mkdir(mode=0o700)
    attested = ECKey.generate_key("P-256")
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write(folder, "receipt-key.pem", pem.decode())
    write(folder, "receipt-delegation.jws", token({**BOUND, "receipt": "spki", "iat": 1, "exp": 2}, attested))
    write(folder, "attestation.json", json.dumps({"version": 1, "ear": token({"jti": "first"}, attested)}))
    models = {
        "mount": str(tmp_path / "models"),
        "volume_id": "07" * 16,
        "epoch": 5,
        "seq": 9,
        "root": "cd" * 32,
    }
    write(folder, "volumes.json", json.dumps({"models": models, "other": {**models, "mount": "/elsewhere"}}))
    return folder, attested, ECKey.import_key(pem)


def test_receipt_when_asked_for_over_http_and_grpc_binds_model_request_and_answer(tmp_path, identity) -> None:
    folder, attested, key = identity
    model = put(tmp_path / "models", "small", 3, "small1") / "model.tflite"
    with serving(tmp_path / "models", environment={"SECURETF_IDENTITY": str(folder)}) as service:
        headers = {"Securetf-Receipt": "request", "Accept-Encoding": "gzip"}
        status, answered, content = service.ask("POST", "/v1/models/small:predict", BODY, headers)
        assert status == 200
        checked = jws.deserialize_compact(answered["securetf-receipt"], key)
        assert checked.headers() == {"alg": "ES256", "typ": "securetf-receipt+jwt"}
        claims = json.loads(checked.payload)
        ear = json.loads((folder / "attestation.json").read_text())["ear"]
        assert claims.pop("iat") > 1_700_000_000
        assert claims == {
            "v": 1,
            **BOUND,
            "model": {
                "name": "small",
                "version": 3,
                "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
                "volume": "models",
                "volume_root": "cd" * 32,
                "volume_epoch": 5,
            },
            "request_sha256": hashlib.sha256(BODY).hexdigest(),
            "response_sha256": hashlib.sha256(content).hexdigest(),
            "ear_jti": "first",
            "ear_sha256": hashlib.sha256(ear.encode()).hexdigest(),
            "delegation": (folder / "receipt-delegation.jws").read_text(),
        }
        write(folder, "attestation.json", json.dumps({"ear": token({"jti": "second"}, attested)}))
        assert over_grpc(service, key)["ear_jti"] == "second"
        assert "securetf-receipt" not in service.ask("POST", "/v1/models/small:predict", BODY)[1]
        status, found = service.json("POST", "/v1/models/small:predict", BODY, {"Securetf-Receipt": "yes"})
        assert (status, "unknown value" in found["error"]) == (400, True)


def over_grpc(service, key) -> dict:
    """Ask over gRPC and return the receipt's claims, whose digests are checked."""
    request = message("oip.ModelInferRequest")(
        model_name="small", raw_input_contents=[np.ones(4, "f4").tobytes()]
    )
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    raw = request.SerializeToString()
    with grpc.insecure_channel(service.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer, done = call.with_call(raw, timeout=60, metadata=(("securetf-receipt", "request"),))
        receipt = dict(done.trailing_metadata())["securetf-receipt"]
    claims = json.loads(jws.deserialize_compact(receipt, key).payload)
    assert claims["request_sha256"] == hashlib.sha256(raw).hexdigest()
    assert claims["response_sha256"] == hashlib.sha256(answer).hexdigest()
    return claims


def test_receipt_when_the_service_has_no_identity_is_refused_before_computing(tmp_path) -> None:
    put(tmp_path / "models", "small", 1, "small1")
    with serving(tmp_path / "models") as service:
        headers = {"Securetf-Receipt": "request"}
        status, found = service.json("POST", "/v1/models/small:predict", BODY, headers)
        assert (status, found["error"].split(";")[0]) == (412, "this service cannot sign receipts")


@pytest.mark.parametrize("name", ["receipt-key.pem", "receipt-delegation.jws", "attestation.json"])
def test_signer_when_a_file_is_missing_or_malformed_refuses_to_start(identity, name) -> None:
    folder, _, _ = identity
    whole = (folder / name).read_text()
    write(folder, name, base64.b64encode(whole.encode()).decode())
    with pytest.raises(ReceiptError):
        Signer(Identity(folder))
    (folder / name).unlink()
    with pytest.raises(ReceiptError, match=r"cannot be read|has gone"):
        Signer(Identity(folder))
