"""Warm-up files: what is in them is computed, what is malformed is refused with its reason."""

import struct
import threading

import numpy as np
import pytest

from securetf.serving.errors import Kind, ModelLoadError, Refusal
from securetf.serving.grpc_api.tensor_proto import to_tensor
from securetf.serving.protocols import message
from securetf.serving.tensors import Signature, TensorSpec
from securetf.serving.warmup import warm_up

PATIENCE_S = 60
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


class Meeting(Noting):
    """Answers once the others are asked, too."""

    def __init__(self, others: threading.Barrier) -> None:
        super().__init__()
        self.others = others

    def infer(self, signature, inputs):
        self.others.wait(PATIENCE_S)
        return super().infer(signature, inputs)


def test_warm_up_when_there_are_several_engines_asks_all_at_once_and_each_once(tmp_path) -> None:
    others = threading.Barrier(3)
    engines = [Meeting(others) for _ in range(3)]
    warm_up(tmp_path, [*engines, engines[0]])
    assert [one.seen for one in engines] == [[("serving_default", [[0.0, 0.0]])]] * 3


def test_warm_up_when_one_of_several_engines_refuses_is_a_model_that_is_not_loaded(tmp_path) -> None:
    class Refusing(Noting):
        def infer(self, *_):
            raise Refusal(Kind.ENGINE, "cannot compute", "another model")

    with pytest.raises(ModelLoadError, match="fails its warm-up: cannot compute"):
        warm_up(tmp_path, [Noting(), Refusing()])


@pytest.mark.parametrize("record", [b"\xff\xff\xff", log("serving_default")[:-1]])
def test_warm_up_when_a_record_is_no_prediction_log_says_so(tmp_path, record) -> None:
    recorded(tmp_path, record)
    with pytest.raises(ModelLoadError, match="not a file of TFRecords of PredictionLog"):
        warm_up(tmp_path, [Noting()])
