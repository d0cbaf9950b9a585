"""Receipts: what they hold, that they follow renewals, and that none is given without an identity."""

import base64
import hashlib
import json
import os
import time

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey

from securetf.keys.jws import sign_compact
from securetf.keys.workload import WorkloadKey, public_key
from securetf.receipt import Receipt, ReceiptModel, verify_receipt
from securetf.serving.errors import ReceiptUnavailableError
from securetf.serving.identity import Identity
from securetf.serving.protocols import message
from securetf.serving.receipts import Signer
from securetf.wire.statement import DELEGATION_TYPE
from support.service import put, serving

BODY = b'{"instances": [[1, 2, 3, 4]]}'
BOUND = {
    "session": "clinic/scans",
    "workload": "server",
    "instance": 0,
    "manifest_hash": f"sha256:{'ab' * 32}",
}


def ear(key: ECKey, token_id: str) -> str:
    """Return a token of the CAS over the attested key, as far as a service looks at it."""
    public = {name: key.as_dict(private=False)[name] for name in ("kty", "crv", "x", "y")}
    claims = {"jti": token_id, "cnf": {"jwk": public}}
    return jws.serialize_compact({"alg": "ES256"}, json.dumps(claims), ECKey.generate_key("P-256"))


def write(folder, name: str, content: str) -> None:
    """Replace a file as the launcher does it: whole at once."""
    (folder / f".{name}").write_text(content)
    os.replace(folder / f".{name}", folder / name)


@pytest.fixture
def identity(tmp_path):
    """An identity directory as the launcher makes it, for a volume mounted where the models are."""
    folder = tmp_path / "identity"
    folder.mkdir(mode=0o700)
    attested, receipt = WorkloadKey.generate(), ec.generate_private_key(ec.SECP256R1())
    encodings = serialization.Encoding, serialization.PrivateFormat
    pem = receipt.private_bytes(encodings[0].PEM, encodings[1].PKCS8, serialization.NoEncryption())
    write(folder, "receipt-key.pem", pem.decode())
    now = int(time.time())
    delegation = {**BOUND, "receipt_key": spki(receipt.public_key()), "iat": now, "exp": now + 3600}
    text = sign_compact(attested, DELEGATION_TYPE, json.dumps(delegation).encode())
    write(folder, "receipt-delegation.jws", text)
    key = public_key(attested.spki)
    jwk = ECKey.import_key(
        key.public_bytes(encodings[0].PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    write(folder, "attestation.json", json.dumps({"version": 1, "ear": ear(jwk, "first")}))
    models = {
        "mount": str(tmp_path / "models"),
        "volume_id": "07" * 16,
        "epoch": 5,
        "seq": 9,
        "root": "cd" * 32,
    }
    write(folder, "volumes.json", json.dumps({"models": models, "other": {**models, "mount": "/elsewhere"}}))
    return folder, key, jwk


def spki(key) -> str:
    """Return a public key as JSON of a delegation has it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def test_receipt_when_asked_for_over_http_and_grpc_binds_model_request_and_answer(tmp_path, identity) -> None:
    folder, key, jwk = identity
    model = put(tmp_path / "models", "small", 3, "small1") / "model.tflite"
    with serving(tmp_path / "models", environment={"SECURETF_IDENTITY": str(folder)}) as service:
        headers = {"Securetf-Receipt": "request", "Accept-Encoding": "gzip"}
        status, answered, content = service.ask("POST", "/v1/models/small:predict", BODY, headers)
        assert status == 200
        receipt, _ = verify_receipt(answered["securetf-receipt"], key)
        token = json.loads((folder / "attestation.json").read_text())["ear"]
        assert (receipt.session, receipt.workload, receipt.manifest_hash) == (
            BOUND["session"],
            BOUND["workload"],
            BOUND["manifest_hash"],
        )
        assert receipt.model == ReceiptModel(
            name="small",
            version=3,
            sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
            volume="models",
            volume_root="cd" * 32,
            volume_epoch=5,
        )
        assert receipt.request_sha256 == hashlib.sha256(BODY).hexdigest()
        assert receipt.response_sha256 == hashlib.sha256(content).hexdigest()
        assert (receipt.ear_jti, receipt.ear_sha256) == ("first", hashlib.sha256(token.encode()).hexdigest())
        write(folder, "attestation.json", json.dumps({"ear": ear(jwk, "second")}))
        assert over_grpc(service, key).ear_jti == "second"
        assert "securetf-receipt" not in service.ask("POST", "/v1/models/small:predict", BODY)[1]
        status, found = service.json("POST", "/v1/models/small:predict", BODY, {"Securetf-Receipt": "yes"})
        assert (status, "unknown value" in found["error"]) == (400, True)


def over_grpc(service, key) -> Receipt:
    """Ask over gRPC and return the receipt, whose digests are checked."""
    request = message("oip.ModelInferRequest")(
        model_name="small", raw_input_contents=[np.ones(4, "f4").tobytes()]
    )
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    raw = request.SerializeToString()
    with grpc.insecure_channel(service.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer, done = call.with_call(raw, timeout=60, metadata=(("securetf-receipt", "request"),))
        receipt, _ = verify_receipt(dict(done.trailing_metadata())["securetf-receipt"], key)
    assert receipt.request_sha256 == hashlib.sha256(raw).hexdigest()
    assert receipt.response_sha256 == hashlib.sha256(answer).hexdigest()
    return receipt


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
    with pytest.raises(ReceiptUnavailableError):
        Signer(Identity(folder))
    (folder / name).unlink()
    with pytest.raises(ReceiptUnavailableError, match=r"cannot be read|has gone"):
        Signer(Identity(folder))
