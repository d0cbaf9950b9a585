"""Our messages are those of the published interfaces: the same numbers, types and repetition under the same
names.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2

from securetf.serving import protocols

FOLDER = Path(protocols.__file__).parent
ROOT = Path(__file__).parents[3]


def fields(descriptor) -> dict[str, tuple]:
    """Return name → number, type, repeated, of each field; enums count as the integers that they are on the
    wire.
    """
    kinds = {14: 5}
    return {
        one.name: (one.number, kinds.get(one.type, one.type), one.is_repeated) for one in descriptor.fields
    }


def files() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Return what is committed, by name of file."""
    found = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / "messages.binpb").read_bytes())
    return {one.name: one for one in found.file}


def test_committed_messages_when_made_anew_are_the_same(tmp_path) -> None:
    made = tmp_path / "messages.binpb"
    subprocess.run([ROOT / "scripts" / "protocols", made], check=True, env={"PYTHON": sys.executable})
    assert made.read_bytes() == (FOLDER / "messages.binpb").read_bytes()


@pytest.mark.parametrize("name", [one.name for one in files()["open_inference.proto"].message_type])
def test_open_inference_message_when_compared_with_tritonclients_has_the_same_fields(name) -> None:
    if name in ("Empty", "HealthCheckRequest", "HealthCheckResponse"):
        return  # without fields, or of gRPC's own health protocol, which the tests of clients speak
    published = service_pb2.DESCRIPTOR.message_types_by_name[name]
    ours = fields(protocols.message(f"oip.{name}").DESCRIPTOR)
    assert ours.items() <= fields(published).items()
    for nested in published.nested_types:
        if nested.name in {one.name for one in protocols.message(f"oip.{name}").DESCRIPTOR.nested_types}:
            assert (
                fields(nested).items()
                >= fields(
                    protocols.message(f"oip.{name}").DESCRIPTOR.nested_types_by_name[nested.name]
                ).items()
            )
