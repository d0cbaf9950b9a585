"""Attestation, key release and freshness against a CAS on loopback: EVALUATION row 1.

`python benchmarks/attestation.py [--quick] [--json FILE]`. Starts its own CAS (INSECURE SIMULATION),
attests it as an owner would, and measures with real TLS, real quotes and real durable commits:

- attest to Provision, one client, kept-alive connection: p50, p99, and its parts;
- the first attestation of a process, with TCP and TLS handshake;
- `advance`, one writer: p50, p99; eight writers of eight volumes: per second;
- attestations per second with eight clients, and the processor time of each in the CAS's process, in its
  verifying processes and in the clients.

Every row is labelled simulated: a development key signs the quote in software; hardware needs its own time.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _processes import cpu_s
from _report import Row, publish
from securetf.attester.insecure_simulation import (
    SimulatedTdx,
    create_platform,
    load_anchor,
    simulated_report,
)
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasClient, CasTrust
from securetf.cas_client.attest_cas import attest_cas
from securetf.claims import Evidence, Platform
from securetf.keys import OwnerKey
from securetf.manifest import Manifest, PlatformPolicy, parse
from securetf.provisioning import VolumeGrant
from securetf.verifier.insecure_simulation import verifier
from securetf.wire import AttestResponse

SESSION = "bench/attestation"
CLIENTS = 8
_WARM_S = 4.0


class MeasuredOnce(SimulatedTdx):
    """As hardware does it: the software is measured when the TEE starts, not for each quote."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, {})
        self._mr_td = software_measurement()
        self.quote_s = 0.0

    def attest(self, report_data: bytes) -> Evidence:
        started = time.perf_counter()
        body = simulated_report(report_data, mr_td=self._mr_td, rtmr3=self._rtmr3)
        evidence = Evidence(Platform.INSECURE_SIMULATION, self._enclave.quote(body))
        self.quote_s = time.perf_counter() - started
        return evidence


class TimedClient(CasClient):
    """A client that keeps how long its requests took and what the CAS says of the last attestation."""

    def __init__(self, trust: CasTrust) -> None:
        super().__init__(trust, deadline_s=60)
        self.spent: dict[str, float] = {}
        self.at_cas_us: dict[str, int] = {}

    def _call(self, method: str, target: str, *rest: Any, **named: Any) -> Any:
        started = time.perf_counter()
        answer = super()._call(method, target, *rest, **named)
        self.spent[target] = time.perf_counter() - started
        if isinstance(answer, AttestResponse):
            self.at_cas_us = answer.timings_us
        return answer


class Bench:
    """One CAS with one session: workload `reader` reads `data`; volumes v0 … are written by us."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.platform = directory, directory / "platform"
        create_platform(self.platform, datetime.now(UTC))
        command = [
            sys.executable, "-c", "import securetf.cli; securetf.cli.main()",
            "cas", "start", "--data", str(directory / "data"), "--listen", "127.0.0.1:0",
            "--insecure-simulation", str(self.platform),
            "--insecure-anchor", str(directory / "INSECURE-anchor"),
        ]  # fmt: skip
        with (directory / "log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit((directory / "log").read_text())
        anchors = load_anchor(self.platform)
        measurement = software_measurement().hex()
        self.trust = attest_cas(
            json.loads(line)["url"],
            verifiers_for=lambda found: {Platform.INSECURE_SIMULATION: verifier(anchors, found)},
            policy=PlatformPolicy(mr_td=(measurement,)),
            now=datetime.now(UTC),
        )
        self.key, text = OwnerKey.generate(), _manifest(measurement)
        self.manifest: Manifest = parse(text)
        self.client = TimedClient(self.trust)
        self.client.create_session(text, self.key)
        self.advance(self.client, self.client.packing_grant(SESSION, "data", self.key), 1)

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(20)

    def attest(self, client: CasClient, attester: SimulatedTdx) -> None:
        client.provision(SESSION, "reader", self.manifest, attester)

    def advance(self, client: CasClient, grant: VolumeGrant, count: int) -> list[float]:
        """Advance `count` times; return the time of each in seconds."""
        seq, root, times = grant.seq, grant.root, []
        for _ in range(count):
            new = hashlib.sha256(root).digest()
            started = time.perf_counter()
            client.advance(
                grant.volume_id, epoch=grant.epoch, seq=seq, root=root, new_seq=seq + 1, new_root=new
            )
            times.append(time.perf_counter() - started)
            seq, root = seq + 1, new
        return times


def _manifest(measurement: str) -> str:
    volumes = "".join(f"[volumes.v{number}]\n" for number in range(CLIENTS))
    return f"""
[session]
name = "{SESSION}"
[appraisal.insecure_simulation]
mr_td = ["{measurement}"]
[secrets.token]
kind = "random"
size_bytes = 32
[volumes.data]
{volumes}
[workloads.reader]
command = ["true"]
volumes = {{ data = "/data:ro" }}
secrets = {{ token = "env:TOKEN" }}
"""


def one_client(bench: Bench, count: int) -> list[Row]:
    """Attest to Provision again and again: total and parts in milliseconds."""
    attester = MeasuredOnce(bench.platform)
    parts: dict[str, list[float]] = {}
    for number in range(count + 5):
        started = time.perf_counter()
        bench.attest(bench.client, attester)
        total = time.perf_counter() - started
        if number < 5:
            continue
        at_cas = {name: spent / 1e6 for name, spent in bench.client.at_cas_us.items()}
        challenge = bench.client.spent["/v1/challenge"]
        values = {
            "attest to Provision": total,
            "part: challenge": challenge,
            "part: quote": attester.quote_s,
            "part: verify (at the CAS)": at_cas["verify"],
            "part: appraise (at the CAS)": at_cas["appraise"],
            "part: release, durable (at the CAS)": at_cas["release"],
            "part: transport, sealing, keys": total - challenge - attester.quote_s - sum(at_cas.values()),
        }
        for name, value in values.items():
            parts.setdefault(name, []).append(value * 1e3)
    rows = []
    for name, values_ms in parts.items():
        target = 10.0 if name == "attest to Provision" else None
        rows.append(row(f"{name}, p50", statistics.median(values_ms), "ms", target, below=True))
        if target is not None:
            rows.append(row(f"{name}, p99", percentile(values_ms, 99), "ms"))
    return rows


def first_attestation(bench: Bench, count: int) -> list[Row]:
    """Attest over a new connection each time: what a launcher waits for."""
    attester, times = MeasuredOnce(bench.platform), []
    for _ in range(count):
        with CasClient(bench.trust) as client:
            started = time.perf_counter()
            bench.attest(client, attester)
            times.append((time.perf_counter() - started) * 1e3)
    started = time.perf_counter()
    software_measurement()
    measuring = (time.perf_counter() - started) * 1e3
    return [
        row("attest to Provision with TCP and TLS handshake, p50", statistics.median(times), "ms"),
        row("measuring the software once (start of a simulated TEE)", measuring, "ms"),
    ]


def advances(bench: Bench, count: int) -> list[Row]:
    """Advance with one writer, then with one writer per volume."""
    alone = bench.advance(bench.client, bench.client.packing_grant(SESSION, "v0", bench.key), count)
    grants = [bench.client.packing_grant(SESSION, f"v{number}", bench.key) for number in range(CLIENTS)]
    spent = in_threads(
        [lambda grant=grant: bench.advance(bench.client, grant, count // 4) for grant in grants]
    )
    return [
        row("advance, p50", statistics.median(alone) * 1e3, "ms", 2.0, below=True),
        row("advance, p99", percentile(alone, 99) * 1e3, "ms"),
        row(f"advance, {CLIENTS} writers", CLIENTS * (count // 4) / spent, "1/s"),
    ]


def throughput(bench: Bench, count: int) -> list[Row]:
    """Attest with eight clients in processes of their own; the CAS shares the machine with them."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import attestation;"
        "attestation.client_process(*sys.argv[2:])"
    )
    bench_file = bench.directory / "bench.json"
    bench_file.write_text(
        json.dumps({"trust": _trust_fields(bench.trust), "manifest": _manifest(bench.trust.measurement)})
    )
    processes = [
        subprocess.Popen(
            [
                sys.executable, "-c", program,
                str(Path(__file__).parent), str(bench_file), str(bench.platform), str(count),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    _warm(bench)
    before = cpu_s(bench.process.pid)
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    at_clients = sum(float(process.communicate()[0]) for process in processes)
    spent = time.perf_counter() - started
    done = len(processes) * 4 * count
    at_cas, at_verifiers = (now - then for now, then in zip(cpu_s(bench.process.pid), before, strict=True))
    parts = {"the CAS's process": at_cas, "its verifying processes": at_verifiers, "the clients": at_clients}
    return [
        row("attestations, 2 processes of 4 clients each", done / spent, "1/s", 500.0, below=False),
        *(row(f"part: one attestation in {name}", cpu * 1e3 / done, "ms CPU") for name, cpu in parts.items()),
    ]


def _warm(bench: Bench) -> None:
    """Have the CAS start its verifying processes, whose start is not what is measured."""
    until = time.monotonic() + _WARM_S

    def work() -> None:
        attester = MeasuredOnce(bench.platform)
        with CasClient(bench.trust, deadline_s=60) as client:
            while time.monotonic() < until:
                client.provision(SESSION, "reader", bench.manifest, attester)

    in_threads([work, work])


def client_process(bench_file: str, directory: str, count: str) -> None:
    """Body of one client process: four threads attest `count` times each once "go" is read."""
    loaded = json.loads(Path(bench_file).read_text())
    fields = loaded["trust"] | {"hpke_public_key": bytes.fromhex(loaded["trust"]["hpke_public_key"])}
    trust, manifest = CasTrust(**fields), parse(loaded["manifest"])
    attesters = [MeasuredOnce(Path(directory)) for _ in range(4)]

    def work(attester: SimulatedTdx) -> None:
        with CasClient(trust, deadline_s=60) as client:
            for _ in range(int(count)):
                client.provision(SESSION, "reader", manifest, attester)

    print("ready", flush=True)
    sys.stdin.readline()
    started = time.process_time()
    in_threads([lambda attester=attester: work(attester) for attester in attesters])
    print(time.process_time() - started)


def in_threads(works: list[Callable[[], Any]]) -> float:
    """Run all at once; return the seconds until the last is done. Raises the first failure."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - started


def _trust_fields(trust: CasTrust) -> dict[str, Any]:
    fields = {name: getattr(trust, name) for name in trust.__struct_fields__}
    return fields | {"hpke_public_key": trust.hpke_public_key.hex()}


def percentile(values: list[float], percent: int) -> float:
    """Return the value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def row(name: str, value: float, unit: str, target: float | None = None, *, below: bool = True) -> Row:
    """Return one row of the result; no peer service is at hand to compare with."""
    met = None if target is None else (value <= target if below else value >= target)
    return Row(name=name, value=value, unit=unit, target=target, met=met)


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="end within 60 s")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    count = 150 if arguments.quick else 1000
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as directory:
        bench = Bench(Path(directory))
        try:
            rows = one_client(bench, count)
            rows += first_attestation(bench, count // 5)
            rows += advances(bench, count)
            rows += throughput(bench, count // 4)
        finally:
            bench.close()
    publish("Attestation, quotes under a development key", rows, arguments.json)


if __name__ == "__main__":
    main()
