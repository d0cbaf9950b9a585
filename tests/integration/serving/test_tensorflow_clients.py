"""tensorflow-serving-api, which imports TensorFlow, against a service that does not."""

import importlib
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from securetf.serving.protocols import message
from support.service import direct

pytestmark = pytest.mark.tensorflow
X = np.random.default_rng(8).standard_normal((3, 4)).astype(np.float32)


MESSAGES = (
    "classification_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "inference_pb2",
    "model_management_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_service_pb2_grpc",
    "regression_pb2",
)


@pytest.fixture(scope="module")
def apis():
    """Return TensorFlow and the published messages; they share this process with ours."""
    found = {name: importlib.import_module(f"tensorflow_serving.apis.{name}") for name in MESSAGES}
    return SimpleNamespace(tf=importlib.import_module("tensorflow"), **found)


@pytest.fixture
def channel(served):
    with grpc.insecure_channel(served.grpc) as found:
        yield found


def test_predict_when_called_answers_with_the_engines_bits_where_clients_look(apis, channel) -> None:
    stub = apis.prediction_service_pb2_grpc.PredictionServiceStub(channel)
    right = direct("small1", x=X)["y"]
    typed = apis.tf.make_tensor_proto(X)
    typed.ClearField("tensor_content")
    typed.float_val.extend(X.ravel().tolist())
    for tensor in (apis.tf.make_tensor_proto(X), typed):
        request = apis.predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.version_label = "small", "stable"
        request.inputs["x"].CopyFrom(tensor)
        answer = stub.Predict(request, timeout=60)
        assert apis.tf.make_ndarray(answer.outputs["y"]).tobytes() == right.tobytes()
        assert list(answer.outputs["y"].float_val) == right.ravel().tolist()
        assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (1, "serving_default")


def test_predict_when_values_are_in_typed_fields_or_left_out_reads_them(apis, channel) -> None:
    stub = apis.prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = apis.predict_pb2.PredictRequest()
    request.model_spec.name = "pair"
    request.output_filter.append("double")
    request.inputs["a"].CopyFrom(apis.tf.make_tensor_proto(1.5, shape=(2, 2)))  # one value stands for all
    request.inputs["b"].CopyFrom(apis.tf.make_tensor_proto([4, -5]))
    answer = stub.Predict(request, timeout=60)
    assert list(answer.outputs) == ["double"]
    assert list(answer.outputs["double"].int_val) == [8, -10]


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (
            lambda r: setattr(r.model_spec, "name", "absent"),
            "NOT_FOUND",
            "Servable not found for request: absent",
        ),
        (lambda r: setattr(r.model_spec, "name", ""), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (lambda r: setattr(r.model_spec.version, "value", 9), "NOT_FOUND", "version 9"),
        (lambda r: setattr(r.model_spec, "version_label", "x"), "NOT_FOUND", "label x"),
        (lambda r: setattr(r.model_spec, "signature_name", "s"), "INVALID_ARGUMENT", "no signature 's'"),
        (lambda r: r.output_filter.append("z"), "INVALID_ARGUMENT", "output tensor alias not found"),
        (lambda r: r.inputs["x"].tensor_shape.dim.add(size=2), "INVALID_ARGUMENT", "its shape needs 96"),
        (lambda r: r.inputs.pop("x"), "INVALID_ARGUMENT", "the signature takes ['x']"),
    ],
)
def test_predict_when_the_request_is_wrong_says_why(apis, channel, change, code, reason) -> None:
    request = apis.predict_pb2.PredictRequest()
    request.model_spec.name = "small"
    request.inputs["x"].CopyFrom(apis.tf.make_tensor_proto(X))
    change(request)
    with pytest.raises(grpc.RpcError) as caught:
        apis.prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    assert (caught.value.code().name, reason in caught.value.details()) == (code, True), (
        caught.value.details()
    )


def test_metadata_when_asked_for_is_unpacked_by_the_published_messages(apis, channel) -> None:
    request = apis.get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "small"
    answer = apis.prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(
        request, timeout=60
    )
    found = apis.get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    described = found.signature_def["serving_default"].inputs["x"]
    assert described.dtype == apis.tf.float32.as_datatype_enum
    assert [one.size for one in described.tensor_shape.dim] == [-1, 4]


def test_status_when_asked_for_says_available(apis, channel) -> None:
    stub = apis.model_service_pb2_grpc.ModelServiceStub(channel)
    request = apis.get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "small"
    (one,) = stub.GetModelStatus(request, timeout=60).model_version_status
    assert (one.version, one.state, one.status.error_code) == (1, 30, 0)
    reload = apis.model_management_pb2.ReloadConfigRequest()
    reload.config.model_config_list.config.add(name="small").version_labels["new"] = 1
    with pytest.raises(grpc.RpcError, match="the operator allows it with --allow-reload-config"):
        stub.HandleReloadConfigRequest(reload, timeout=60)


def example_request(request):
    """Fill a request for the model `examples` with two examples."""
    for values in ((1.0, 2.0), (3.0, 4.0)):
        example = request.input.example_list.examples.add()
        example.features.feature["f"].float_list.value.extend(values)
    return request


def test_classify_regress_and_multi_inference_when_called_answer(apis, tensorflow_served) -> None:
    with grpc.insecure_channel(tensorflow_served.grpc) as channel:
        stub = apis.prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = example_request(apis.classification_pb2.ClassificationRequest())
        request.model_spec.name, request.model_spec.signature_name = "examples", "classify"
        answer = stub.Classify(request, timeout=60)
        found = [[(c.label, c.score) for c in one.classes] for one in answer.result.classifications]
        assert found == [[("first", 1.0), ("second", 2.0)], [("first", 3.0), ("second", 4.0)]]
        request = example_request(apis.regression_pb2.RegressionRequest())
        request.model_spec.name, request.model_spec.signature_name = "examples", "regress"
        assert [one.value for one in stub.Regress(request, timeout=60).result.regressions] == [3.0, 7.0]
        request = example_request(apis.inference_pb2.MultiInferenceRequest())
        for name in ("classify", "regress"):
            task = request.tasks.add(method_name=f"tensorflow/serving/{name}")
            task.model_spec.name, task.model_spec.signature_name = "examples", name
        one, two = stub.MultiInference(request, timeout=60).results
        assert one.classification_result.classifications[1].classes[1].score == 4.0
        assert two.regression_result.regressions[0].value == 3.0


def test_rest_when_it_classifies_and_regresses_answers_in_serving_form(tensorflow_served) -> None:
    rows = {"examples": [{"f": [1, 2.0]}, {"f": [3.0, 4]}]}
    status, found = tensorflow_served.json(
        "POST", "/v1/models/examples:classify", {"signature_name": "classify", **rows}
    )
    assert (status, found) == (
        200,
        {"results": [[["first", 1.0], ["second", 2.0]], [["first", 3.0], ["second", 4.0]]]},
    )
    status, found = tensorflow_served.json(
        "POST", "/v1/models/examples:regress", {"signature_name": "regress", **rows}
    )
    assert (status, found) == (200, {"results": [3.0, 7.0]})
    status, found = tensorflow_served.json(
        "POST", "/v1/models/examples:classify", {"signature_name": "regress", **rows}
    )
    assert (status, "Expected signature method_name to be" in found["error"]) == (400, True)


def published_fields(descriptor) -> set[tuple]:
    """Return name, number, type and repetition of each field; enums count as integers."""
    return {
        (one.name, one.number, 5 if one.type == 14 else one.type, one.is_repeated)
        for one in descriptor.fields
    }


def test_our_messages_when_compared_with_the_published_ones_have_the_same_fields(apis) -> None:
    ours = message("tfs.Example").DESCRIPTOR.file.message_types_by_name
    importlib.import_module("tensorflow_serving.apis.prediction_log_pb2")
    pool = apis.predict_pb2.DESCRIPTOR.pool
    for name, descriptor in ours.items():
        published = pool.FindMessageTypeByName(f"{package_of(name)}.{name}")
        assert published_fields(descriptor) <= published_fields(published), name


def package_of(name: str) -> str:
    """Return the published package of a message."""
    core = {"TensorShapeProto", "TensorProto", "TensorInfo", "SignatureDef"}
    core |= {"BytesList", "FloatList", "Int64List", "Feature", "Features", "Example"}
    return "tensorflow" if name in core else "tensorflow.serving"
