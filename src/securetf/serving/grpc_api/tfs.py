"""TensorFlow Serving's gRPC services: PredictionService and ModelService (tensorflow_serving/apis)."""

from typing import Any

import grpc

from securetf.serving import examples
from securetf.serving.errors import Kind, Refusal, invalid
from securetf.serving.grpc_api.calls import Call, unary
from securetf.serving.grpc_api.tensor_proto import to_array, to_tensor
from securetf.serving.models import Version
from securetf.serving.protocols import message
from securetf.serving.service import Service, Target
from securetf.serving.tensors import CLASSIFY, REGRESS, TensorSpec

_TYPE_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


def handlers(service: Service) -> list[grpc.GenericRpcHandler]:
    """Return both services."""
    prediction = {
        "Predict": ("PredictRequest", predict),
        "Classify": ("ClassificationRequest", classify),
        "Regress": ("RegressionRequest", regress),
        "MultiInference": ("MultiInferenceRequest", multi_inference),
        "GetModelMetadata": ("GetModelMetadataRequest", model_metadata),
    }
    model = {
        "GetModelStatus": ("GetModelStatusRequest", model_status),
        "HandleReloadConfigRequest": ("ReloadConfigRequest", reload_config),
    }
    services = {"tensorflow.serving.PredictionService": prediction, "tensorflow.serving.ModelService": model}
    return [
        grpc.method_handlers_generic_handler(
            name,
            {
                method: unary(service, "tfs-grpc", method, f"tfs.{request}", handler)
                for method, (request, handler) in methods.items()
            },
        )
        for name, methods in services.items()
    ]


def target_of(spec: Any) -> Target:
    """Return the model that a ModelSpec names.

    Raises:
        Refusal: it names none, or a negative version.
    """
    if not spec.name:
        invalid("Missing ModelSpec", "set model_spec.name")
    if spec.WhichOneof("version_choice") == "version":
        if spec.version.value < 0:
            invalid("the version is negative", "leave it out for the highest")
        return Target(model=spec.name, number=spec.version.value)
    return Target(model=spec.name, label=spec.version_label)


def _answered(spec: Any, version: Version, signature: str) -> None:
    spec.name, spec.signature_name = version.model, signature
    spec.version.value = version.number


async def predict(service: Service, call: Call) -> Any:
    """Answer PredictRequest."""
    request = call.request
    with service.version(target_of(request.model_spec)) as version:
        call.model, call.version = version.model, version
        name, signature = version.signature(request.model_spec.signature_name)
        unknown = set(request.output_filter) - signature.outputs.keys()
        if unknown:
            invalid(
                f"output tensor alias not found in signature: {sorted(unknown)}",
                f"it has {sorted(signature.outputs)}",
            )
        inputs = {key: to_array(tensor, key) for key, tensor in request.inputs.items()}
        outputs = await service.infer(version, name, inputs, deadline=call.deadline)
        response = message("tfs.PredictResponse")()
        _answered(response.model_spec, version, name)
        for key, array in outputs.items():
            if not request.output_filter or key in request.output_filter:
                response.outputs[key].CopyFrom(to_tensor(array))
        return response


async def classify(service: Service, call: Call) -> Any:
    """Answer ClassificationRequest."""
    response = message("tfs.ClassificationResponse")()
    with service.version(target_of(call.request.model_spec)) as version:
        call.model, call.version = version.model, version
        name, _ = version.signature(call.request.model_spec.signature_name)
        _answered(response.model_spec, version, name)
        await _classify(service, call, version, name, response.result)
        return response


async def _classify(service: Service, call: Call, version: Version, name: str, result: Any) -> None:
    found = await examples.classify(service, version, name, _examples(call.request.input), call.deadline)
    for classes in found:
        classifications = result.classifications.add()
        for label, score in classes:
            classifications.classes.add(label=label, score=score)


async def regress(service: Service, call: Call) -> Any:
    """Answer RegressionRequest."""
    response = message("tfs.RegressionResponse")()
    with service.version(target_of(call.request.model_spec)) as version:
        call.model, call.version = version.model, version
        name, _ = version.signature(call.request.model_spec.signature_name)
        _answered(response.model_spec, version, name)
        await _regress(service, call, version, name, response.result)
        return response


async def _regress(service: Service, call: Call, version: Version, name: str, result: Any) -> None:
    for value in await examples.regress(service, version, name, _examples(call.request.input), call.deadline):
        result.regressions.add(value=value)


async def multi_inference(service: Service, call: Call) -> Any:
    """Answer MultiInferenceRequest: several signatures of one version over the same examples."""
    tasks = call.request.tasks
    if not tasks:
        invalid("Inference request must have at least one task", "add tasks")
    if len({task.model_spec.name for task in tasks}) != 1 or len(
        {task.model_spec.signature_name for task in tasks}
    ) != len(tasks):
        invalid(
            "All ModelSpecs in a MultiInferenceRequest must access the same model, each another signature",
            "split it",
        )
    response = message("tfs.MultiInferenceResponse")()
    with service.version(target_of(tasks[0].model_spec)) as version:
        call.model, call.version = version.model, version
        for task in tasks:
            name, _ = version.signature(task.model_spec.signature_name)
            result = response.results.add()
            _answered(result.model_spec, version, name)
            if task.method_name == CLASSIFY:
                await _classify(service, call, version, name, result.classification_result)
            elif task.method_name == REGRESS:
                await _regress(service, call, version, name, result.regression_result)
            else:
                raise Refusal(
                    Kind.UNSUPPORTED,
                    f"Unsupported signature method_name: {task.method_name}",
                    "classify or regress",
                )
        return response


def _examples(given: Any) -> list[dict[str, list[Any]]]:
    kind = given.WhichOneof("kind")
    if kind is None:
        invalid("Input is empty", "send an example_list")
    held = getattr(given, kind)
    context = held.context if kind == "example_list_with_context" else None
    return [examples.from_example(one, context) for one in held.examples]


async def model_metadata(service: Service, call: Call) -> Any:
    """Answer GetModelMetadataRequest."""
    fields = set(call.request.metadata_field)
    if fields != {"signature_def"}:
        invalid(f"Metadata field {sorted(fields)} is not supported", "ask for signature_def")
    with service.version(target_of(call.request.model_spec)) as version:
        call.model = version.model
        found = message("tfs.SignatureDefMap")()
        for name, signature in version.signatures.items():
            described = found.signature_def[name]
            described.method_name = signature.method
            for key, spec in signature.inputs.items():
                _describe(described.inputs[key], spec)
            for key, spec in signature.outputs.items():
                _describe(described.outputs[key], spec)
        response = message("tfs.GetModelMetadataResponse")()
        response.model_spec.name = version.model
        response.model_spec.version.value = version.number
        packed = response.metadata["signature_def"]
        packed.type_url, packed.value = _TYPE_URL, found.SerializeToString()
        return response


def _describe(info: Any, spec: TensorSpec) -> None:
    info.name, info.dtype = spec.tensor_name, spec.type.number
    info.tensor_shape.unknown_rank = spec.shape is None
    for size in spec.shape or ():
        info.tensor_shape.dim.add().size = size


async def model_status(service: Service, call: Call) -> Any:
    """Answer GetModelStatusRequest."""
    target = target_of(call.request.model_spec)
    response = message("tfs.GetModelStatusResponse")()
    for one in service.models.status(target.model, target.number, target.label):
        call.model = target.model
        found = response.model_version_status.add(version=one.number, state=one.state.value)
        served = one.state.name == "AVAILABLE"
        found.status.error_code = (
            0 if served or not one.problem else grpc.StatusCode.FAILED_PRECONDITION.value[0]
        )
        found.status.error_message = one.problem or (service.watcher.problem if served else "")
    return response


async def reload_config(service: Service, call: Call) -> Any:
    """Answer ReloadConfigRequest: it sets labels, if the operator lets clients do that, and nothing else."""
    if not service.options.allow_reload_config:
        raise Refusal(
            Kind.PRECONDITION,
            "clients may not change this service",
            "the operator allows it with --allow-reload-config",
        )
    configs = call.request.config.model_config_list.config
    if not configs or any(one.base_path or one.model_platform for one in configs):
        invalid("only version_labels can be changed", "models and versions are those of the model volume")
    for one in configs:
        call.model = one.name
        service.models.set_labels(one.name, dict(one.version_labels))
    return message("tfs.ReloadConfigResponse")(status={"error_code": 0})
