"""Asks a service with kserve's own clients and prints the answers' bytes in hex, one line each.

Its own process: messages of kserve and of tritonclient have the same names, so one process loads one of them.
"""

import asyncio
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np

# The clients of an endpoint, without the rest of the package, which needs Kubernetes and more.
package = types.ModuleType("kserve")
package.__path__ = [str(Path(importlib.util.find_spec("kserve").origin).parent)]
sys.modules["kserve"] = package

from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig  # noqa: E402
from kserve.protocol.infer_type import InferInput, InferRequest  # noqa: E402


def request(x: np.ndarray, *, binary: bool) -> InferRequest:
    """Return a request for the model `small`."""
    given = InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=binary)
    return InferRequest("small", [given], parameters={"binary_data_output": binary})


async def main(rest: str, grpc: str, x: np.ndarray) -> None:
    """Ask over HTTP, binary and JSON, and over gRPC."""
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(f"http://{rest}")
    assert await client.is_model_ready(f"http://{rest}", "small")
    for binary in (True, False):
        answer = await client.infer(f"http://{rest}", request(x, binary=binary), model_name="small")
        print(answer.outputs[0].as_numpy().tobytes().hex())
    await client.close()
    over_grpc = InferenceGRPCClient(grpc)
    assert await over_grpc.is_server_ready()
    answer = await over_grpc.infer(request(x, binary=True))
    print(answer.outputs[0].as_numpy().tobytes().hex())
    await over_grpc.close()


if __name__ == "__main__":
    values = np.frombuffer(bytes.fromhex(sys.argv[3]), np.float32).reshape(-1, 4)
    asyncio.run(main(sys.argv[1], sys.argv[2], values))
