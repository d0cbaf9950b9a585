"""Warm-up files: what is in them is computed, what is malformed is refused with its reason."""

import struct

import numpy as np
import pytest

from securetf.serving.errors import ModelLoadError
from securetf.serving.grpc_api.tensor_proto import to_tensor
from securetf.serving.protocols import message
from securetf.serving.tensors import Signature, TensorSpec
from securetf.serving.warmup import warm_up

SPEC = TensorSpec(dtype=np.dtype("float32"), shape=(-1, 2))


class Noting:
    """Notes what it is asked to compute."""

    def __init__(self) -> None:
        self.signatures = {"serving_default": Signature(inputs={"x": SPEC}, outputs={"y": SPEC})}
        self.seen = []

    def infer(self, signature, inputs):
        self.seen.append((signature, inputs["x"].tolist()))
        return {"y": inputs["x"]}


def recorded(folder, *records: bytes) -> None:
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    file.write_bytes(b"".join(struct.pack("<QI", len(one), 0) + one + bytes(4) for one in records))


def log(signature: str) -> bytes:
    made = message("tfs.PredictionLog")()
    request = made.predict_log.request
    request.model_spec.signature_name = signature
    request.inputs["x"].CopyFrom(to_tensor(np.array([[1, 2]], np.float32)))
    return made.SerializeToString()


def test_warm_up_when_requests_are_recorded_computes_them(tmp_path) -> None:
    recorded(tmp_path, log("serving_default"))
    engine = Noting()
    warm_up(tmp_path, [engine])
    assert ("serving_default", [[1.0, 2.0]]) in engine.seen


@pytest.mark.parametrize("record", [b"\xff\xff\xff", log("serving_default")[:-1]])
def test_warm_up_when_a_record_is_no_prediction_log_says_so(tmp_path, record) -> None:
    recorded(tmp_path, record)
    with pytest.raises(ModelLoadError, match="not a file of TFRecords of PredictionLog"):
        warm_up(tmp_path, [Noting()])
