"""How many attestations a CAS does in a second when its clients cost next to nothing.

`python benchmarks/attestation_load.py [--quick] [--json FILE]`. Many connections of two processes, each with
one key pair for all its attestations and raw HTTP; the CAS as in `attestation.py` (INSECURE SIMULATION), its
state in memory (/dev/shm). Told besides: the processor time of one attestation in the CAS's process, in its
verifying processes and in these clients: what stands in the way of more (docs/decisions/0017).

What is measured is what PYTHONPATH names: two trees are compared by running this for each in turn.
"""

import argparse
import multiprocessing
import os
import socket
import ssl
import statistics
import tempfile
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import attestation
from _processes import cpu_s
from _report import Row, publish
from securetf import manifest as manifests
from securetf.cas_client.answers import decode_answer
from securetf.cas_client.membership import AttestedKeys, Who, attest_fields
from securetf.cas_client.spki import subject_public_key_info
from securetf.keys.workload import WorkloadKey
from securetf.provisioning import HpkeKeyPair
from securetf.wire import AttestRequest, ChallengeRequest, ChallengeResponse, encode

PROCESSES = 2
_SETTLE_S = 0.7  # until the connections stand


class Connection:
    """One client: a key pair, a TLS connection, HTTP without a library."""

    def __init__(self, port: int, platform: Path, manifest_hash: bytes) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain)
        self._spki = subject_public_key_info(self._socket.getpeercert(binary_form=True) or b"")
        self._keys = AttestedKeys(WorkloadKey.generate(), HpkeKeyPair.generate())
        self._who = Who(attestation.SESSION, "reader", 0, manifest_hash)
        self._attester = attestation.MeasuredOnce(platform)
        self._question = encode(ChallengeRequest(session=attestation.SESSION, workload="reader", instance=0))

    def attest(self) -> None:
        """Attest once, to a sealed Provision that is not opened."""
        nonce = decode_answer(self._post("/v1/challenge", self._question), ChallengeResponse).nonce
        fields, _ = attest_fields(
            self._who,
            self._keys,
            self._attester,
            nonce=nonce,
            cas_spki=self._spki,
            exporter=None,  # these clients are on Python's `ssl`
            network_spki=None,
            endpoint=None,
        )
        self._post("/v1/attest", encode(AttestRequest(**fields)))

    def _post(self, target: str, body: bytes) -> bytes:
        head = f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, found = answer.decode("latin-1").partition("\r\n\r\n")
        size = int(head.lower().partition("content-length:")[2].split()[0])
        while len(found) < size:
            found += self._receive().decode("latin-1")
        assert head.startswith("HTTP/1.1 200"), found[:300]
        return found.encode("latin-1")

    def _receive(self) -> bytes:
        part = self._socket.recv(65536)
        assert part, "the CAS ended the connection"
        return part


def client(port: int, platform: str, count: int, connections: int, go: Event, out: "Queue[float]") -> None:
    """Body of one process: attest `count` times on each connection; tell the processor time."""
    text = attestation._manifest(attestation.software_measurement().hex())
    manifest_hash = manifests.manifest_hash(manifests.parse(text))
    made = [Connection(port, Path(platform), manifest_hash) for _ in range(connections)]

    def work(one: Connection) -> None:
        for _ in range(count):
            one.attest()

    time.sleep(_SETTLE_S)
    out.put(0.0)
    go.wait()
    before = time.process_time()
    attestation.in_threads([lambda one=one: work(one) for one in made])
    out.put(time.process_time() - before)


def load(bench: attestation.Bench, count: int, connections: int) -> dict[str, float]:
    """Attest `count` times on each connection; return the rate and the milliseconds of each part."""
    context: Any = multiprocessing.get_context("spawn")
    go, out = context.Event(), context.Queue()
    port = int(bench.trust.url.rpartition(":")[2])
    arguments = (port, str(bench.platform), count, connections // PROCESSES, go, out)
    processes = [context.Process(target=client, args=arguments) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for _ in processes:
        out.get()
    before, started = cpu_s(bench.process.pid), time.perf_counter()
    go.set()
    at_clients = sum(out.get() for _ in processes)
    spent = time.perf_counter() - started
    at_cas, at_verifiers = (now - then for now, then in zip(cpu_s(bench.process.pid), before, strict=True))
    for process in processes:
        process.join()
    done = count * (connections // PROCESSES) * PROCESSES
    parts = {
        "the CAS's process": at_cas,
        "its verifying processes": at_verifiers,
        "these clients": at_clients,
    }
    return {"rate": done / spent} | {name: cpu * 1e3 / done for name, cpu in parts.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round; ends within a minute")
    parser.add_argument("--connections", type=int, default=16, help="default: 16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    rounds, count = (1, 40) if options.quick else (5, 150)
    with tempfile.TemporaryDirectory(prefix="securetf-bench-", dir="/dev/shm") as directory:
        bench = attestation.Bench(Path(directory))
        try:
            load(bench, 30, options.connections)  # the CAS starts its verifying processes
            taken = [load(bench, count, options.connections) for _ in range(rounds)]
        finally:
            bench.close()
    found = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    rate = found.pop("rate")
    rows = [Row(name=f"attestations, {options.connections} connections", value=rate, unit="1/s", target=500.0,
                met=rate >= 500.0)]  # fmt: skip
    rows += [Row(name=f"part: {name}", value=value, unit="ms CPU") for name, value in found.items()]
    facts = {"load_1min": os.getloadavg()[0], "rounds": rounds}
    publish("Attestations in a second", rows, options.json, facts)


if __name__ == "__main__":
    main()
