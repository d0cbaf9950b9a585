"""Fuzz target (atheris) for TDX quotes and collateral: no input may raise anything but our errors.

    pip install atheris
    PYTHONPATH=src python fuzz/tdx_quote.py fuzz/corpus/tdx_quote -max_total_time=300

The first byte of an input chooses: 0 parse a quote, 1 verify one, 2 read collateral, 3 verify with it.
Genuine inputs of an INSECURE SIMULATION, made anew with each start, are written into the corpus first.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["securetf"]):
    from securetf.attester import development_pki as pki
    from securetf.attester.simulated_enclave import simulated_report
    from securetf.endorsements import Endorsements, TrustAnchors
    from securetf.endorsements.trust import spki_digest
    from securetf.errors import EndorsementError, EvidenceError, MalformedEvidenceError
    from securetf.evidence import tdx
    from securetf.verifier.tdx import authenticate

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEYS = pki.create(NOW, platform_id=bytes(16))
ENDORSEMENTS = pki.endorse(KEYS, NOW)
ANCHORS = TrustAnchors(spki_sha256=frozenset({spki_digest(KEYS.root.certificate)}), development=True)
ENCLAVE = KEYS.quoting_enclave()
REPORT = simulated_report(bytes(range(64)), mr_td=bytes(48), rtmr3=bytes(48))
QUOTE = ENCLAVE.quote(REPORT)


def one_input(data: bytes) -> None:
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        try:
            quote = tdx.parse(rest)
        except MalformedEvidenceError:
            return
        canonical = tdx.encode(quote)
        if not rest.startswith(canonical) or any(rest[len(canonical) :]):
            raise AssertionError("the canonical bytes are not the front of the quote")
    elif kind == b"\1":
        verify(rest, ENDORSEMENTS)
    elif kind in {b"\2", b"\3"}:
        try:
            endorsements = Endorsements.from_json(rest)
        except EndorsementError:
            return
        if Endorsements.from_json(endorsements.to_json()) != endorsements:
            raise AssertionError("collateral does not survive writing and reading")
        if kind == b"\3":
            verify(QUOTE, endorsements)


def verify(raw: bytes, endorsements: Endorsements) -> None:
    try:
        claims = authenticate(
            raw,
            anchors=ANCHORS,
            endorsements_for=lambda _: endorsements,
            expected_report_data=bytes(range(64)),
            minimum_tcb_evaluation=0,
            now=NOW,
        )
    except EvidenceError:
        return
    if not claims.simulated or claims.registers["mr_td"] != REPORT.mr_td:
        raise AssertionError("changed claims were accepted")


def write_seeds(corpus: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    text = ENDORSEMENTS.to_json().encode()
    quote5 = ENCLAVE.quote(REPORT, version=5)
    seeds = [
        b"\0" + QUOTE,
        b"\0" + quote5,
        b"\1" + QUOTE + bytes(9),
        b"\1" + quote5,
        b"\2" + text,
        b"\3" + text,
    ]
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)


def main() -> None:
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            write_seeds(Path(argument))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
