"""A customer's programs: three clients of three makers ask the same service. They know nothing of securetf.

    python classify.py HTTP_ADDRESS GRPC_ADDRESS IMAGE.jpg...

Addresses: `127.0.0.1:8501`, where `securetf proxy` or a plain TensorFlow Serving listens. Images: 32x32.
"""

import sys
from pathlib import Path

import grpc
import numpy as np
import requests
import tensorflow as tf
import tritonclient.http
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
http_address, grpc_address, *files = sys.argv[1:]
images = np.stack(
    [tf.io.decode_jpeg(Path(file).read_bytes(), channels=3).numpy() / np.float32(255) for file in files]
)


def with_requests() -> np.ndarray:
    """TensorFlow Serving's REST, in JSON."""
    url = f"http://{http_address}/v1/models/images:predict"
    answer = requests.post(url, json={"instances": images.tolist()}, timeout=60)
    answer.raise_for_status()
    return np.array(answer.json()["predictions"], np.float32)


def with_triton() -> np.ndarray:
    """The Open Inference Protocol, with binary tensors."""
    client = tritonclient.http.InferenceServerClient(http_address)
    metadata = client.get_model_metadata("images")
    tensor = tritonclient.http.InferInput(metadata["inputs"][0]["name"], images.shape, "FP32")
    tensor.set_data_from_numpy(images)
    return client.infer("images", [tensor]).as_numpy(metadata["outputs"][0]["name"])


def with_tensorflow_serving() -> np.ndarray:
    """TensorFlow Serving's gRPC."""
    with grpc.insecure_channel(grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "images"
        (name,) = inputs_of(stub)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(images))
        (output,) = stub.Predict(request, timeout=60).outputs.values()
    return tf.make_ndarray(output)


def inputs_of(stub) -> list[str]:
    """Return the names of the model's inputs."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "images"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(request, timeout=60).metadata["signature_def"].Unpack(signatures)
    return list(signatures.signature_def["serving_default"].inputs)


answers = {
    "requests": with_requests(),
    "tritonclient": with_triton(),
    "tensorflow-serving-api": with_tensorflow_serving(),
}
for name, scores in answers.items():
    print(f"{name:24}", *(CLASSES[best] for best in scores.argmax(-1)))
first, *others = answers.values()
if not all(np.array_equal(first, other) for other in others):
    sys.exit("the clients got different answers")
