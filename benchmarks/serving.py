"""What `securetf serve` costs over the bare engine, and LiteRT against TensorFlow: row 6 of the evaluation.

`python benchmarks/serving.py [--quick] [--memory] [--json FILE]`, with TensorFlow (to make the models). One
600 kB tensor over HTTP and gRPC against the engine in this process, and against the same libraries' servers
without the service, alternating, as a client in Python sees it and as one of prepared bytes does, which
shows what is the server's; 64 clients of a small and of a large model against the engine's own throughput,
in C (wrk, where it is installed) and in Python; memory over 60 s of requests (--memory: only that, over
100,000 requests); start, first answer, memory and mapped code with LiteRT and with the SavedModel. The
network shield is not in it: network.py measures it.
"""

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np

from _clients import request
from _models import SIZES, litert
from _raw_clients import GrpcClient, http_client
from _report import RESULTS, Row, panels, publish
from _starts import engines, kilobytes, repository
from _wrk import installed, wrk
from securetf.serving.engines import load
from securetf.serving.options import cores
from securetf.serving.protocols import message

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.service import Served, serving

CLIENTS = Path(__file__).with_name("_clients.py")
OVERHEAD_MS, THROUGHPUT = 1.5, 0.95
INFER = "/inference.GRPCInferenceService/ModelInfer"


@contextmanager
def service(model: str, *options: str) -> Iterator[Served]:
    """Serve one model."""
    with repository(model) as models, serving(models, *options) as found:
        yield found


def image(model: str) -> np.ndarray:
    """Return one input."""
    size = SIZES[model]
    return np.random.default_rng(0).random((1, size, size, 3), np.float32)


def input_of(model: str) -> tuple[str, str]:
    """Return the names of the default signature and of its input."""
    (engine,) = load(litert(model), workers=1, threads=1)
    name, signature = next(iter(engine.signatures.items()))
    return name, next(iter(signature.inputs))


@contextmanager
def bare_servers() -> Iterator[tuple[str, str]]:
    """Run the libraries' servers without the service; return the addresses of HTTP and gRPC."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, Path(__file__).with_name("_bare_servers.py"), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield f"127.0.0.1:{port}", f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(20)


def overhead(rounds: int) -> list[Row]:
    """Compare one request at a time: engine, HTTP, HTTP without the service, gRPC, the same, engine, …"""
    (engine,) = load(litert("probe"), workers=1, threads=1)
    signature, name = input_of("probe")
    tensor = image("probe")
    with service("probe", "--workers", "1") as served, bare_servers() as (rest, rpc):
        wait_for_port(rest)
        call, post = inference(name, tensor), request("probe", name, SIZES["probe"])
        ways: dict[str, Callable[[], object]] = {
            "engine": lambda: engine.infer(signature, {name: tensor}),
            "HTTP": over_http(served.rest, name, tensor),
            "bare HTTP": over_http(rest, name, tensor),
            "HTTP, prepared bytes": http_client(served.rest, post),
            "bare HTTP, prepared bytes": http_client(rest, post),
            "gRPC": over_grpc(served.grpc, call),
            "bare gRPC": over_grpc(rpc, call),
            "gRPC, prepared bytes": GrpcClient(served.grpc, INFER, call),
            "bare gRPC, prepared bytes": GrpcClient(rpc, INFER, call),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, ask in ways.items():
                for number in range(25):
                    begin = time.perf_counter()
                    ask()
                    if number >= 5:  # the first ones find cold caches
                        times[way].append((time.perf_counter() - begin) * 1000)
    p50 = {way: statistics.median(taken) for way, taken in times.items()}
    measured = [way for way in ways if f"bare {way}" in ways]
    return [row for way in measured for row in _overhead_rows(way, p50)]


def _overhead_rows(way: str, p50: dict[str, float]) -> list[Row]:
    """Return a request's time, what it is over the engine's, and what of it the library has without us."""
    bare, over = p50[f"bare {way}"], p50[way] - p50["engine"]
    name = f"600 kB tensor, {way}"
    return [
        Row(name=f"{name}: p50", value=p50[way], unit="ms", peer="engine", peer_value=p50["engine"]),
        Row(
            name=f"{name}: overhead",
            value=over,
            unit="ms",
            peer="bare",
            peer_value=bare,
            ratio=over / bare,
            target=OVERHEAD_MS,
            met=over <= OVERHEAD_MS,
        ),
        Row(name=f"{name}: ours", value=over - bare, unit="ms"),
    ]


def over_http(address: str, name: str, tensor: np.ndarray) -> Callable[[], object]:
    """Return one exchange over a connection that stays open."""
    raw = tensor.tobytes()
    given = {
        "name": name,
        "shape": tensor.shape,
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    connection = http.client.HTTPConnection(address)
    wait_for_port(address)

    def ask() -> None:
        connection.request("POST", "/v2/models/probe/infer", head + raw, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(content)

    return ask


def wait_for_port(address: str) -> None:
    """Wait until something listens."""
    host, port = address.split(":")
    for _ in range(1000):
        with suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
            return
        time.sleep(0.01)
    raise SystemExit(f"nothing listens on {address}")


def inference(name: str, tensor: np.ndarray) -> bytes:
    """Return the bytes of a ModelInferRequest."""
    found = message("oip.ModelInferRequest")(model_name="probe", raw_input_contents=[tensor.tobytes()])
    found.inputs.add(name=name, datatype="FP32", shape=tensor.shape)
    return bytes(found.SerializeToString())


def over_grpc(address: str, raw: bytes) -> Callable[[], object]:
    """Return one exchange over a channel that stays open."""
    call = grpc.insecure_channel(address).unary_unary(INFER)
    return lambda: call(raw, timeout=60, wait_for_ready=True)


def throughput(model: str, seconds: float) -> list[Row]:
    """Compare 64 clients of a service with the engine in as many threads as the service has workers.

    Clients and service share the cores, the engine alone has them. What the same clients and the library's
    bare server take is measured, too: no service on these cores could give more than the ceiling it leaves.
    The clients are wrk, and an event loop of Python, which takes more of the cores.
    """
    _, name = input_of(model)
    message = request(model, name, SIZES[model])
    ways = {"64 clients in Python": lambda where, seconds: clients(where, model, name, 64, seconds)}
    if installed():
        ways = {"64 clients, wrk": lambda where, seconds: wrk(where, message, 64, seconds), **ways}
    else:
        print("wrk is not installed: clients in Python alone", flush=True)
    own: list[float] = []
    served_by: dict[str, list[dict]] = {way: [] for way in ways}
    bare: dict[str, list[float]] = {way: [] for way in ways}
    with service(model, "--queue", "256") as served, bare_servers() as (rest, _):
        wait_for_port(rest)
        for _ in range(3):
            own.append(engines_own(model, seconds))
            for way, ask in ways.items():
                served_by[way].append(ask(served.rest, seconds))
                bare[way].append(ask(rest, max(1.0, seconds / 4))["per_s"])
    peer = statistics.median(own)
    return [
        row
        for way in ways
        for row in _throughput_rows(f"{model}, {way}", served_by[way], peer, statistics.median(bare[way]))
    ]


def _throughput_rows(name: str, found: list[dict], peer: float, bare: float) -> list[Row]:
    """Return the rate beside the engine's own and beside the ceiling, and what the clients saw."""
    value = statistics.median(one["per_s"] for one in found)
    others = sum(one["others"] for one in found)
    ratio, ceiling = value / peer, 1 / (1 / peer + 1 / bare)
    return [
        Row(
            name=name,
            value=value,
            unit="1/s",
            peer="engine",
            peer_value=peer,
            ratio=ratio,
            target=THROUGHPUT,
            met=ratio >= THROUGHPUT,
        ),
        Row(
            name=f"{name}: ceiling",
            value=value,
            unit="1/s",
            peer="ceiling",
            peer_value=ceiling,
            ratio=value / ceiling,
        ),
        Row(name=f"{name}: p99", value=statistics.median(one["p99_ms"] for one in found), unit="ms"),
        Row(name=f"{name}: not answered", value=float(others), unit="", target=0.0, met=not others),
    ]


def clients(address: str, model: str, name: str, number: int, seconds: float) -> dict:
    """Let clients ask from a process of their own."""
    arguments = [address, model, name, str(number), str(seconds), str(SIZES[model])]
    shown = subprocess.run([sys.executable, CLIENTS, *arguments], check=True, capture_output=True)
    found: dict = json.loads(shown.stdout)
    return {**found, "others": sum(found["others"].values())}


def engines_own(model: str, seconds: float) -> float:
    """Return requests per second of the engine alone, with one thread in each of as many workers as cores."""
    signature, name = input_of(model)
    tensor, counts = image(model), []
    until = time.monotonic() + seconds

    def work(engine) -> None:
        done = 0
        while time.monotonic() < until:
            engine.infer(signature, {name: tensor})
            done += 1
        counts.append(done)

    workers = [
        threading.Thread(target=work, args=(one,)) for one in load(litert(model), workers=cores(), threads=1)
    ]
    until, begin = time.monotonic() + seconds, time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.monotonic() - begin)


def memory(requests: int, limit_s: float) -> list[Row]:
    """Compare the memory after a tenth of the requests that were done in `limit_s` with that at the end."""
    _, name = input_of("cifar")
    with service("cifar") as served:
        resident, done, until = [], 0, time.monotonic() + limit_s
        while done < requests and time.monotonic() < until:
            found = clients(served.rest, "cifar", name, 8, 2.0)
            if found["others"]:
                raise SystemExit(f"{found['others']} were not answered")
            done += found["answered"]
            resident.append((done, kilobytes(served.process.pid)["VmRSS"]))
    first = next(kb for number, kb in resident if number >= done / 10)
    last = resident[-1][1]
    return [
        Row(
            name=f"memory after {done:,} requests",
            value=last / 1024,
            unit="MB",
            peer="tenth",
            peer_value=first / 1024,
            ratio=last / first,
            target=1.05,
            met=last <= first * 1.05,
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="MobileNetV2, fewer and shorter rounds")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    parser.add_argument("--memory", action="store_true", help="only the memory, over 100,000 requests")
    options = parser.parse_args()
    quick = options.quick
    if options.memory:
        publish("serving, memory", memory(2_000 if quick else 100_000, 3600.0), options.json)
        return
    model = "MobileNetV2" if quick else "InceptionV3"
    rows = overhead(3 if quick else 20)
    rows += throughput("MobileNetV2", 2.0 if quick else 10.0)
    rows += [] if quick else throughput("InceptionV3", 15.0)
    rows += memory(2_000 if quick else 100_000, 60.0)
    rows += engines(model, 2 if quick else 5)
    publish("serving, against the engine alone and TensorFlow", rows, options.json)
    compared = {
        f"{row.name.partition(': ')[2]}, {row.unit}": {
            "LiteRT": row.value,
            "TensorFlow": row.peer_value or 0.0,
        }
        for row in rows
        if row.peer == "TF"
    }
    panels(RESULTS / "serving.png", f"{model} served (simulated TEE)", compared)


if __name__ == "__main__":
    main()
