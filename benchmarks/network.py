"""What the network shield costs a connection, against plain TCP and stunnel.

Throughput, latency, set-up, gRPC, uploads of clients outside, memory: `python benchmarks/network.py [--quick]
[--json FILE]`. Programs: `apt-get install iperf3 stunnel4`; ghostunnel is measured too where it is installed.
Two relays in one process (the crate's example `relay_bench`, built here) stand between the programs;
everything shares the machine's cores, so only ratios count. Runs alternate: raw, ours, stunnel.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from _network_grpc import GrpcServer, call
from _network_upload import BODIES, upload_ms
from _report import RESULTS, Row, bars, publish

ROOT = Path(__file__).parents[1]
IDLE = 1000
TARGETS = {"to raw": 0.55, "to stunnel": 1.8, "ping-pong": 5.0, "idle KiB": 64.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for program in ("iperf3", "stunnel4"):
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install iperf3 stunnel4")
    binary = build()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(stack, binary, directory)
        rows = bench.throughput(seconds=2 if arguments.quick else 4, runs=3 if arguments.quick else 5)
        rows += bench.latency(messages=3000 if arguments.quick else 20_000, runs=3 if arguments.quick else 5)
        rows += bench.grpc(small=300 if arguments.quick else 2000, large=20, runs=3 if arguments.quick else 5)
        rows += bench.upload(runs=3 if arguments.quick else 7)
        rows += bench.memory()
    load = os.getloadavg()[0]
    publish("Network shield on loopback", rows, arguments.json, {"load_average": load, "peers": bench.names})
    draw(rows)


def draw(rows: list[Row]) -> None:
    """Plot each path's figure relative to raw: more is better for Gbit/s, less for microseconds."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.peer == "raw" and row.peer_value:
            groups.setdefault(label(row), {}).update(raw=1.0, ours=row.value / row.peer_value)
    for row in rows:
        values = groups.get(label(row))
        if values and row.peer != "raw" and row.peer_value:
            values[row.peer] = row.peer_value * values["ours"] / row.value
    bars(RESULTS / "network.png", "Network shield, relative to plain TCP", groups, "times raw")


def label(row: Row) -> str:
    """Return a row's name short enough for an axis."""
    short = {
        "throughput, 1 stream(s)": "1 stream,\nGbit/s",
        "throughput, 4 stream(s)": "4 streams,\nGbit/s",
        "64 B ping-pong, median": "64 B echo,\nus",
        "connect and 64 B echo": "connect,\nus",
        "gRPC unary 64 B": "gRPC\n64 B, us",
        "gRPC unary 1 MiB": "gRPC\n1 MiB, us",
        "outside: upload of 600 kB": "600 kB\nin, ms",
        "outside: upload of 64 MiB": "64 MiB\nin, ms",
    }
    return short.get(row.name, row.name)


def build() -> Path:
    command = ["cargo", "build", "--quiet", "--release", "--locked", "-p", "securetf-netshield"]
    subprocess.run([*command, "--example", "relay_bench"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples" / "relay_bench"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a helper until the end of the block; it ends with its standard input or by its own id."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Bench:
    """The paths from a client to a server: by name, a port for iperf3 and one for the echo program."""

    def __init__(self, stack: ExitStack, binary: Path, directory: Path) -> None:
        self.binary = binary
        iperf = free_port()
        stack.enter_context(running("iperf3", "-s", "-p", str(iperf), "--logfile", "/dev/null"))
        echo = self._port(stack.enter_context(running(binary, "echo")))
        self.grpc_paths = self._grpc(stack, binary)
        self.upload_paths = self._upload(stack, binary, directory)
        self.pair = stack.enter_context(running(binary, "pair", f"127.0.0.1:{echo}"))
        bulk = stack.enter_context(running(binary, "pair", f"127.0.0.1:{iperf}"))
        ours = (self._port(bulk), self._port(self.pair))
        self.paths = {"raw": (iperf, echo), "ours": ours}
        self.paths["stunnel"] = self._stunnel(stack, directory, iperf, echo)
        if shutil.which("ghostunnel"):
            self.paths["ghostunnel"] = self._ghostunnel(stack, directory, iperf, echo)
        for bulk_port, echo_port in self.paths.values():
            wait_for(echo_port)
            wait_for(bulk_port)
        self.names = list(self.paths)

    def _grpc(self, stack: ExitStack, binary: Path) -> dict[str, int]:
        server = stack.enter_context(GrpcServer())
        pair = stack.enter_context(running(binary, "pair", f"127.0.0.1:{server.port}"))
        return {"raw": server.port, "ours": self._port(pair)}

    def _upload(self, stack: ExitStack, binary: Path, directory: Path) -> dict[str, int]:
        sink = self._port(stack.enter_context(running(binary, "sink")))
        ours = self._port(stack.enter_context(running(binary, "outside", f"127.0.0.1:{sink}")))
        entry, file = free_port(), directory / "stunnel-upload.conf"
        file.write_text(_stunnel_conf(self._certificate(directory), "no", entry, sink))
        stack.enter_context(running("stunnel4", file))
        wait_for(entry)
        return {"raw": sink, "ours": ours, "stunnel": entry}

    @staticmethod
    def _port(process: subprocess.Popen[str]) -> int:
        assert process.stdout
        return int(process.stdout.readline().split()[0].rsplit(":", 1)[1])

    @staticmethod
    def _certificate(directory: Path) -> Path:
        pem = directory / "peer.pem"
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
        )
        options = [
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            str(directory / "key"),
            "-out",
            str(pem),
        ]
        subprocess.run([*command.split(), *options], check=True, capture_output=True)
        pem.write_text(pem.read_text() + (directory / "key").read_text())
        return pem

    def _stunnel(self, stack: ExitStack, directory: Path, *servers: int) -> tuple[int, int]:
        pem = self._certificate(directory)
        entries: list[int] = []
        for number, server in enumerate(servers):
            middle, entry = free_port(), free_port()
            entries.append(entry)
            for role, accept, connect in (("no", middle, server), ("yes", entry, middle)):
                file = directory / f"stunnel-{number}-{role}.conf"
                file.write_text(_stunnel_conf(pem, role, accept, connect, verified=True))
                stack.enter_context(running("stunnel4", file))
        return entries[0], entries[1]

    def _ghostunnel(self, stack: ExitStack, directory: Path, *servers: int) -> tuple[int, int]:
        pem = str(directory / "peer.pem")
        entries: list[int] = []
        for server in servers:
            middle, entry = free_port(), free_port()
            entries.append(entry)
            common = ["--keystore", pem, "--cacert", pem]
            stack.enter_context(
                running(
                    "ghostunnel",
                    "server",
                    "--listen",
                    f"127.0.0.1:{middle}",
                    "--target",
                    f"127.0.0.1:{server}",
                    "--allow-all",
                    *common,
                )
            )
            stack.enter_context(
                running(
                    "ghostunnel",
                    "client",
                    "--listen",
                    f"127.0.0.1:{entry}",
                    "--target",
                    f"localhost:{middle}",
                    *common,
                )
            )
        return entries[0], entries[1]

    def throughput(self, *, seconds: int, runs: int) -> list[Row]:
        rows: list[Row] = []
        for streams in (1, 4):
            speeds: dict[str, list[float]] = {name: [] for name in self.paths}
            for _ in range(runs):
                for name, (port, _) in self.paths.items():
                    speeds[name].append(iperf(port, streams, seconds))
            medians = {name: statistics.median(values) for name, values in speeds.items()}
            for peer in self.paths.keys() - {"ours"}:
                target = TARGETS.get(f"to {peer}") if streams == 1 else None
                rows.append(
                    compare(f"throughput, {streams} stream(s)", "Gbit/s", medians, peer, least=target)
                )
        return sorted(rows, key=lambda row: row.name)

    def latency(self, *, messages: int, runs: int) -> list[Row]:
        rows: list[Row] = []
        for what, mode, count in (
            ("64 B ping-pong, median", "pingpong", messages),
            ("connect and 64 B echo", "connect", 50),
        ):
            micros: dict[str, list[float]] = {name: [] for name in self.paths}
            for _ in range(runs):
                for name, (_, port) in self.paths.items():
                    done = subprocess.run(
                        [self.binary, mode, f"127.0.0.1:{port}", str(count)],
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    micros[name].append(float(done.stdout.split()[0]))
            medians = {name: statistics.median(values) for name, values in micros.items()}
            for peer in sorted(self.paths.keys() - {"ours"}):
                target = TARGETS["ping-pong"] if mode == "pingpong" and peer == "raw" else None
                rows.append(compare(what, "us", medians, peer, most=target))
        return rows

    def grpc(self, *, small: int, large: int, runs: int) -> list[Row]:
        """Time unary calls of grpcio that send a message and get it back."""
        rows: list[Row] = []
        for name, size, count in (("64 B", 64, small), ("1 MiB", 1 << 20, large)):
            micros: dict[str, list[float]] = {path: [] for path in self.grpc_paths}
            for _ in range(runs):
                for path, port in self.grpc_paths.items():
                    micros[path].append(call(port, size, count))
            medians = {path: statistics.median(values) for path, values in micros.items()}
            rows.append(compare(f"gRPC unary {name}", "us", medians, "raw"))
        return rows

    def upload(self, *, runs: int) -> list[Row]:
        """Time bodies that a client outside of the session sends, with one byte as the answer."""
        rows: list[Row] = []
        for name, size, count in BODIES:
            times: dict[str, list[float]] = {path: [] for path in self.upload_paths}
            for _ in range(runs):
                for path, port in self.upload_paths.items():
                    times[path].append(upload_ms(port, size, count, secured=path != "raw"))
            medians = {path: statistics.median(values) for path, values in times.items()}
            rows += [
                compare(f"outside: upload of {name}", "ms", medians, peer) for peer in ("raw", "stunnel")
            ]
        return rows

    def memory(self) -> list[Row]:
        before = resident(self.pair.pid)
        with running(self.binary, "hold", f"127.0.0.1:{self.paths['ours'][1]}", str(IDLE)) as holder:
            assert holder.stdout
            held = int(holder.stdout.readline())
            time.sleep(1)
            each = (resident(self.pair.pid) - before) / 2 / held
        row = Row(
            name=f"memory per idle connection of {held}",
            value=each,
            unit="KiB",
            target=TARGETS["idle KiB"],
            met=each <= TARGETS["idle KiB"],
        )
        return [row]


def _stunnel_conf(pem: Path, client: str, accept: int, connect: int, *, verified: bool = False) -> str:
    """Return the configuration of one side; verified: each asks for the other's certificate."""
    text = (
        "foreground = yes\npid =\ndebug = 3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
        f"[one]\nclient = {client}\naccept = 127.0.0.1:{accept}\nconnect = 127.0.0.1:{connect}\n"
        f"cert = {pem}\nsslVersionMin = TLSv1.3\n"
    )
    return text + (f"CAfile = {pem}\nverifyChain = yes\n" if verified else "")


def iperf(port: int, streams: int, seconds: int) -> float:
    command = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-P", str(streams), "-t", str(seconds), "-J"]
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        result = json.loads(done.stdout or "{}")
        if "error" not in result and "end" in result:
            return float(result["end"]["sum_received"]["bits_per_second"]) / 1e9
        time.sleep(1)  # the server is still busy with the end of the run before
    sys.exit(f"iperf3 on port {port}: {result.get('error')}")


def resident(pid: int) -> float:
    """Return KiB in memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return float(status.split("VmRSS:", 1)[1].split()[0])


def compare(
    name: str,
    unit: str,
    medians: dict[str, float],
    peer: str,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Row:
    ratio = medians["ours"] / medians[peer]
    met = ratio >= least if least is not None else ratio <= most if most is not None else None
    return Row(
        name=name,
        value=medians["ours"],
        unit=unit,
        peer=peer,
        peer_value=medians[peer],
        ratio=ratio,
        target=least if least is not None else most,
        met=met,
    )


if __name__ == "__main__":
    main()
