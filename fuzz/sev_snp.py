"""Fuzz target (atheris) for SEV-SNP Evidence and AMD's certificates: only our errors may leave.

    pip install atheris
    PYTHONPATH=src:tests python fuzz/sev_snp.py fuzz/corpus/sev_snp -max_total_time=300

The first byte of an input chooses: 0 parse Evidence, 1 verify it, 2 sort a file of certificates, 3 verify
with it in place of the VCEK, 4 in place of the revocation list. Genuine inputs of a synthetic AMD are written
into the corpus.
"""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["securetf"]):
    from securetf.endorsements.sev_snp import SnpEndorsements
    from securetf.errors import EndorsementError, EvidenceError, MalformedEvidenceError
    from securetf.evidence import sev_snp_certificates
    from support.snp_platform import Platform

CHIP = Platform()
KNOWN = CHIP.endorsements()
REPORT = CHIP.signed()


def one_input(data: bytes) -> None:
    """Feed one input; whatever leaves must be one of our errors."""
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        try:
            evidence = sev_snp_certificates.parse(rest)
        except MalformedEvidenceError:
            return
        if sev_snp_certificates.parse(sev_snp_certificates.encode(evidence)) != evidence:
            raise AssertionError("Evidence does not survive writing and reading")
    elif kind == b"\1":
        verify(rest, KNOWN)
    elif kind == b"\2":
        try:
            SnpEndorsements.of([rest])
        except EndorsementError:
            return
    elif kind == b"\3":
        verify(REPORT, replace(KNOWN, vek=rest))
    elif kind == b"\4":
        verify(REPORT, replace(KNOWN, crl=rest))


def verify(raw: bytes, endorsements: SnpEndorsements) -> None:
    """Verify; what is accepted must be what was signed."""
    try:
        claims = CHIP.verify(raw, endorsements=endorsements)
    except EvidenceError:
        return
    if not claims.simulated or claims.measurement != b"\1" * 48:
        raise AssertionError("changed claims were accepted")


def write_seeds(corpus: Path) -> None:
    """Write genuine inputs of every kind."""
    corpus.mkdir(parents=True, exist_ok=True)
    carried = {"vcek": KNOWN.vek or b"", "ask": KNOWN.ask or b"", "ark": KNOWN.root or b""}
    evidence = replace(sev_snp_certificates.parse(REPORT), certificates=carried)
    table = sev_snp_certificates.encode(evidence)
    seeds = [
        b"\0" + REPORT,
        b"\0" + table,
        b"\1" + REPORT,
        b"\1" + table,
        b"\2" + (KNOWN.ask or b""),
        b"\2" + (KNOWN.crl or b""),
        b"\3" + (KNOWN.vek or b""),
        b"\4" + (KNOWN.crl or b""),
    ]
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)


def main() -> None:
    """Write the seeds and fuzz."""
    warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            write_seeds(Path(argument))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
