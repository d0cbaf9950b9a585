"""Messages of the gRPC interfaces, in a descriptor pool of our own.

`messages.binpb` is a FileDescriptorSet that `scripts/protocols` makes from the .proto files here. The
published Python modules cannot serve for this: those of tensorflow-serving-api import all of TensorFlow, and
where an engine has loaded TensorFlow, its messages stand in the default pool already.
"""

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for published in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(published.DESCRIPTOR.serialized_pb)
    files = descriptor_pb2.FileDescriptorSet.FromString(
        Path(__file__).with_name("messages.binpb").read_bytes()
    )
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@cache
def message(name: str) -> Any:
    """Return the class of a message: `tfs.PredictRequest`, `oip.ModelInferRequest`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"securetf.{name}"))
