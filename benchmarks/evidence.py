"""Verification of Evidence, one core: EVALUATION row 1, the part "verify", for every platform.

`python benchmarks/evidence.py [--quick] [--json FILE]`. CPU time of one verification, from raw bytes to
verified claims, medians of rounds that alternate between us and the peer:

- warm: the verifier has seen this machine before and keeps its certificates (each date is checked again);
- cold: it has not.

The peer of SGX and TDX is a bare call of dcap-qvl with parsed collateral: no parser of ours before it, no
pin, no checks after it. Nitro and TPM have none in Python whose checks are the same. Genuine Evidence of
`../shared/vectors`, where it is there; synthetic otherwise, which the rows say.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import dcap_qvl

from _report import Row, publish
from securetf.claims import Evidence, Platform
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.evidence import nitro as nitro_evidence
from securetf.evidence import sev_snp as snp_evidence
from securetf.verifier import nitro, sev_snp, sgx, tdx
from securetf.verifier.certificate_path import KnownPaths
from securetf.verifier.known import Known
from securetf.verifier.sev_snp_chain import KnownSnp
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import shared_vectors, snp_platform, tpm2
from support.nitro import NOW as NITRO_NOW
from support.nitro import make_module

VECTORS = shared_vectors.VECTORS
MEMORY = {"sgx": Known, "tdx": Known, "sev_snp": KnownSnp, "nitro": KnownPaths}


@dataclass(frozen=True)
class Case:
    """What is measured. warm, cold: one verification. peer: the bare call, None: there is none."""

    name: str
    genuine: bool
    target_ms: float
    warm: Callable[[], object]
    cold: Callable[[], object]
    peer: Callable[[], object] | None = None


def dcap(name: str, file: str, collateral: str, report_data_at: int) -> Case:
    """Return the case of a genuine DCAP quote."""
    raw = (VECTORS / file).read_bytes()
    text = (VECTORS / "collateral" / f"{collateral}.json").read_text()
    known, now = Endorsements.from_json(text), datetime(2025, 7, 1, tzinfo=UTC)
    verify = partial(
        (sgx if name == "sgx" else tdx).authenticate,
        raw,
        anchors=TrustAnchors.intel(),
        endorsements_for=lambda _: known,
        expected_report_data=raw[report_data_at : report_data_at + 64],
        minimum_tcb_evaluation=0,
        now=now,
    )
    parsed = dcap_qvl.QuoteCollateralV3.from_json(text)
    peer = partial(dcap_qvl.verify, raw, parsed, int(now.timestamp()))
    return with_memory(name, 1.5, verify, peer, genuine=True)


def with_memory(
    name: str,
    target_ms: float,
    verify: Callable[..., object],
    peer: Callable[[], object] | None = None,
    *,
    genuine: bool,
) -> Case:
    """Return the case of a verifier that takes its memory as `known`."""
    memory = MEMORY[name.partition(",")[0]]
    return Case(
        name, genuine, target_ms, partial(verify, known=memory()), lambda: verify(known=memory()), peer
    )


def snp() -> Case:
    """Return the case of SEV-SNP with revocation: synthetic, since AMD's lists are not at hand."""
    platform = snp_platform.Platform()
    raw, known = platform.signed(), platform.endorsements()
    verify = partial(
        sev_snp.authenticate,
        raw,
        anchors=platform.anchors,
        endorsements_for=lambda _: known,
        expected_report_data=snp_platform.REPORT_DATA,
        now=snp_platform.NOW,
    )
    return with_memory("sev_snp", 2.5, verify, genuine=False)


def genuine_snp() -> Case:
    """Return the case of a genuine report; without revocation, whose list is not at hand."""
    raw = (VECTORS / "snp/milan_v3.bin").read_bytes()
    files = ("snp/milan_v3.vcek.pem", "roots/amd_milan_ask_ark_asvk.pem")
    known = SnpEndorsements.of([(VECTORS / file).read_bytes() for file in files])
    verify = partial(
        sev_snp.authenticate_without_revocation,
        raw,
        anchors=SnpAnchors.amd(),
        endorsements_for=lambda _: known,
        expected_report_data=snp_evidence.parse(raw).report_data,
        now=datetime(2026, 6, 1, tzinfo=UTC),
    )
    return with_memory("sev_snp, no revocation", 2.5, verify, genuine=True)


def nitro_case() -> Case:
    """Return the case of Nitro: a genuine document, or one of the tests' module."""
    file = VECTORS / "nitro/evervault_2022_valid.bin"
    if file.exists():
        raw, anchors = file.read_bytes(), TrustAnchors.aws_nitro()
        document = nitro_evidence.parse(raw)
        now = datetime.fromtimestamp(document.timestamp_ms / 1000, UTC)
    else:
        module = make_module()
        raw, anchors, now = module.document(), module.root.anchors, NITRO_NOW
        document = nitro_evidence.parse(raw)
    carried = {"user_data": document.user_data, "nonce": document.nonce}
    verify = partial(
        nitro.authenticate,
        raw,
        anchors=anchors,
        expected={name: value for name, value in carried.items() if value},
        now=now,
    )
    return with_memory("nitro", 4.0, verify, genuine=file.exists())


def tpm(name: str, *, enrolled: bool) -> Case:
    """Return a case of TPM 2.0: an enrolled key, or a certified one with an event log."""
    machine = tpm2.make_tpm()
    evidence = machine.evidence(certificates=(), event_log=b"") if enrolled else machine.evidence()
    known = machine.known

    def verifier() -> Tpm2Verifier:
        anchors = tpm2.NOBODY if enrolled else machine.root.anchors
        return Tpm2Verifier(KeyOrigins(anchors, lambda _: known), event_log_required=not enrolled)

    def verify(one: Tpm2Verifier) -> object:
        return one.verify(
            Evidence(Platform.TPM2, evidence), expected_report_data=tpm2.REPORT_DATA, now=tpm2.NOW
        )

    return Case(name, False, 0.3, partial(verify, verifier()), lambda: verify(verifier()))


def cases() -> Iterator[Case]:
    """Yield what can be measured here."""
    if VECTORS.exists():
        yield dcap("sgx", "sgx/dcapqvl_sgx_v3.bin", "sgx-00A067110000-2025-06", 368)
        yield dcap("tdx", "tdx/dcapqvl_tdx_v4.bin", "tdx-B0C06F000000-2025-06", 568)
        yield genuine_snp()
    yield snp()
    yield nitro_case()
    yield tpm("tpm2, enrolled", enrolled=True)
    yield tpm("tpm2, certified, event log", enrolled=False)


def cpu_ms(run: Callable[[], object], repeat: int) -> float:
    """Return the CPU time of one run: what others do on this machine does not count."""
    started = time.process_time()
    for _ in range(repeat):
        run()
    return (time.process_time() - started) * 1000 / repeat


def measure(case: Case, *, rounds: int, repeat: int) -> Iterator[Row]:
    """Yield the rows of one case, its runs alternating."""
    runs = {"warm": case.warm, "cold": case.cold}
    if case.peer is not None:
        runs["peer"] = case.peer
    for run in runs.values():
        cpu_ms(run, 2)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(cpu_ms(run, repeat))
    found = {name: statistics.median(times) for name, times in taken.items()}
    peer = found.get("peer")
    label = f"{case.name} ({'genuine' if case.genuine else 'synthetic'})"
    for name in ("warm", "cold"):
        value = found[name]
        target = case.target_ms if name == "warm" else None
        yield Row(
            name=f"{label}, {name}",
            value=value,
            unit="ms CPU",
            peer="" if peer is None else "dcap-qvl",
            peer_value=peer,
            ratio=None if peer is None else value / peer,
            target=target,
            met=None if target is None else value <= target,
            simulated=True,
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; ends within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")
    rounds, repeat = (5, 10) if options.quick else (15, 40)
    rows = [row for case in cases() for row in measure(case, rounds=rounds, repeat=repeat)]
    publish("Verification of Evidence, one core", rows, options.json, {"note": "no I/O, no network"})


if __name__ == "__main__":
    main()
