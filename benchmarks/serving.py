"""What `securetf serve` costs over the bare engine, and LiteRT against TensorFlow: rows 5 and 6 of the
evaluation.

`python benchmarks/serving.py [--quick] [--memory] [--json FILE]`, with TensorFlow (to make the models). One
600 kB tensor over HTTP and gRPC against the engine in this process, alternating; 64 clients against the
engine's own throughput; memory over 90 s of requests (--memory: only that, over 100,000 requests); 1 to n
processes on images of CIFAR-10's size; start, first answer, memory and mapped code with LiteRT and with the
SavedModel. The network shield is not in it: network.py measures it.
"""

import argparse
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from _models import SIZES, litert, saved_model
from _report import RESULTS, Row, bars, publish
from securetf.serving.engines import load
from securetf.serving.options import cores
from securetf.serving.protocols import message

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.service import Served, serving

CLIENTS = Path(__file__).with_name("_clients.py")
OVERHEAD_MS, THROUGHPUT, START_S, EFFICIENCY = 1.5, 0.95, 0.5, 0.95


@contextmanager
def service(model: str, *options: str, saved: bool = False) -> Iterator[Served]:
    """Serve one model."""
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as area:
        folder = Path(area) / "models" / model / "1"
        folder.parent.mkdir(parents=True)
        if saved:
            shutil.copytree(saved_model(model), folder)
        else:
            folder.mkdir()
            shutil.copy(litert(model), folder / "model.tflite")
        for path in folder.rglob("*"):
            subprocess.run(["touch", "-d", "2020-01-01", path], check=True)
        with serving(folder.parents[1], *options) as found:
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


def overhead(rounds: int) -> list[Row]:
    """Compare one request at a time: engine, HTTP, gRPC, engine, …"""
    (engine,) = load(litert("probe"), workers=1, threads=1)
    signature, name = input_of("probe")
    tensor = image("probe")
    with service("probe", "--workers", "1") as served, grpc.insecure_channel(served.grpc) as channel:
        ways: dict[str, Callable[[], object]] = {
            "engine": lambda: engine.infer(signature, {name: tensor}),
            "HTTP": over_http(served, name, tensor),
            "gRPC": over_grpc(channel, name, tensor),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, ask in ways.items():
                for number in range(25):
                    begin = time.perf_counter()
                    ask()
                    if number >= 5:  # the first ones find cold caches
                        times[way].append((time.perf_counter() - begin) * 1000)
    bare = statistics.median(times["engine"])
    rows = []
    for way in ("HTTP", "gRPC"):
        p50 = statistics.median(times[way])
        rows.append(
            Row(
                name=f"600 kB tensor, {way}: p50",
                value=p50,
                unit="ms",
                peer="engine",
                peer_value=bare,
            )
        )
        more = p50 - bare
        met = more <= OVERHEAD_MS
        rows.append(
            Row(name=f"600 kB tensor, {way}: overhead", value=more, unit="ms", target=OVERHEAD_MS, met=met)
        )
    return rows


def over_http(served: Served, name: str, tensor: np.ndarray) -> Callable[[], object]:
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
    connection = http.client.HTTPConnection(served.rest)

    def ask() -> None:
        connection.request("POST", "/v2/models/probe/infer", head + raw, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(content)

    return ask


def over_grpc(channel: grpc.Channel, name: str, tensor: np.ndarray) -> Callable[[], object]:
    """Return one exchange over a channel that stays open."""
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    request = message("oip.ModelInferRequest")(model_name="probe", raw_input_contents=[tensor.tobytes()])
    request.inputs.add(name=name, datatype="FP32", shape=tensor.shape)
    raw = request.SerializeToString()
    return lambda: call(raw, timeout=60)


def throughput(model: str, seconds: float) -> list[Row]:
    """Compare 64 clients of a service with the engine in as many threads as the service has workers."""
    _, name = input_of(model)
    own, served_rate, p99, others = [], [], [], {}
    with service(model, "--queue", "256") as served:
        for _ in range(3):
            own.append(engines_own(model, seconds))
            found = clients(served, model, name, 64, seconds)
            served_rate.append(found["per_s"])
            p99.append(found["p99_ms"])
            others |= found["others"]
    value, peer = statistics.median(served_rate), statistics.median(own)
    ratio = value / peer
    return [
        Row(
            name=f"{model}, 64 clients",
            value=value,
            unit="1/s",
            peer="engine",
            peer_value=peer,
            ratio=ratio,
            target=THROUGHPUT,
            met=ratio >= THROUGHPUT,
        ),
        Row(name=f"{model}, 64 clients: p99", value=statistics.median(p99), unit="ms"),
        Row(
            name=f"{model}, 64 clients: not answered",
            value=float(sum(others.values())),
            unit="",
            target=0.0,
            met=not others,
        ),
    ]


def clients(served: Served, model: str, name: str, number: int, seconds: float) -> dict:
    """Let clients ask from a process of their own."""
    arguments = [served.rest, model, name, str(number), str(seconds), str(SIZES[model])]
    shown = subprocess.run([sys.executable, CLIENTS, *arguments], check=True, capture_output=True)
    found: dict = json.loads(shown.stdout)
    return found


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
            found = clients(served, "cifar", name, 8, 2.0)
            if found["others"]:
                raise SystemExit(f"not answered: {found['others']}")
            done += found["answered"]
            resident.append((done, status(served)["VmRSS"]))
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


def status(served: Served) -> dict[str, int]:
    """Return the kB figures of the process's status."""
    lines = Path(f"/proc/{served.process.pid}/status").read_text().splitlines()
    return {one.split(":")[0]: int(one.split()[1]) for one in lines if one.endswith(" kB")}


def mapped_code_mb(served: Served) -> float:
    """Return the size of the files that are mapped to be executed."""
    files = set()
    for line in Path(f"/proc/{served.process.pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            files.add(fields[5])
    return sum(Path(one).stat().st_size for one in files if Path(one).is_file()) / 1e6


@dataclass
class Started:
    """One start: seconds until the first answer, and the process's sizes then."""

    seconds: float
    peak_mb: float
    code_mb: float


def start(model: str, *, saved: bool) -> Started:
    """Start a service and ask it until it answers."""
    # `serving` looks every 20 ms whether the service is ready; the first request follows at once.
    size = SIZES[model]
    with service(model, saved=saved) as served:
        begin = process_start(served.process.pid)
        rows = {"inputs": np.zeros((1, size, size, 3)).tolist()}
        body = json.dumps(rows).encode()
        code, _, content = served.ask("POST", f"/v1/models/{model}:predict", body)
        if code != 200:
            raise SystemExit(content)
        seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - begin
        return Started(seconds, status(served)["VmHWM"] / 1024, mapped_code_mb(served))


def process_start(pid: int) -> float:
    """Return when a process began, in seconds of CLOCK_BOOTTIME (proc(5): field 22, in 1/100 s)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / 100


def engines(model: str, rounds: int) -> list[Row]:
    """Compare LiteRT and TensorFlow from start to first answer."""
    lite = [start(model, saved=False) for _ in range(rounds)]
    full = [start(model, saved=True) for _ in range(max(1, rounds // 2))]
    rows = []
    for name, unit, target in (("seconds", "s", START_S), ("peak_mb", "MB", None), ("code_mb", "MB", None)):
        value, peer = (statistics.median(getattr(one, name) for one in found) for found in (lite, full))
        title = {"seconds": "start to first answer", "peak_mb": "peak memory", "code_mb": "mapped code"}[name]
        met = None if target is None else value <= target
        rows.append(
            Row(
                name=f"{model}: {title}",
                value=value,
                unit=unit,
                peer="TF",
                peer_value=peer,
                ratio=value / peer,
                target=target,
                met=met,
            )
        )
    return rows


def scaling(seconds: float) -> list[Row]:
    """Compare how 1 to n processes scale, served and native, on images of CIFAR-10's size."""
    _, name = input_of("cifar")
    native, served = [], []
    for number in range(1, cores() + 1):
        native.append(native_rate(number))
        served.append(served_rate(number, name, seconds))
    last = len(native)
    ratio = (served[-1] / served[0]) / (native[-1] / native[0])
    return [
        Row(
            name=f"1 to {last} processes: efficiency",
            value=served[-1] / served[0] / last,
            unit="",
            peer="native",
            peer_value=native[-1] / native[0] / last,
            ratio=ratio,
            target=EFFICIENCY,
            met=ratio >= EFFICIENCY,
        )
    ]


def native_rate(number: int) -> float:
    """Return images per second of so many processes without a server."""
    program = Path(__file__).with_name("_classify.py")
    with tempfile.TemporaryDirectory() as area:
        np.save(f"{area}/images.npy", np.zeros((1000, 32, 32, 3), np.uint8))
        command = [sys.executable, program, litert("cifar"), f"{area}/images.npy", "3", "1"]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(number)]
        found = [json.loads(one.communicate()[0])["ms"] for one in running]
    return sum(1000 * len(times) / sum(times) for times in found)


def served_rate(number: int, name: str, seconds: float) -> float:
    """Return images per second of so many services, each with one worker and clients of its own."""
    rates: list[float] = []

    def one_service() -> None:
        with service("cifar", "--workers", "1") as served:
            rates.append(clients(served, "cifar", name, 2, seconds)["per_s"])

    workers = [threading.Thread(target=one_service) for _ in range(number)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    return sum(rates)


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
    rows += throughput(model, 2.0 if quick else 20.0)
    rows += memory(2_000 if quick else 100_000, 90.0)
    rows += scaling(2.0 if quick else 10.0)
    rows += engines(model, 2 if quick else 5)
    publish("serving, against the engine alone and TensorFlow", rows, options.json)
    compared = {
        row.name: {"LiteRT": row.value, "TensorFlow": row.peer_value or 0.0}
        for row in rows
        if row.peer == "TF"
    }
    bars(RESULTS / "serving.png", f"{model} served (simulated TEE)", compared, "s, MB, MB")


if __name__ == "__main__":
    main()
