"""Fuzz target (atheris) for endorsements and needs of Evidence: no input may raise anything but our errors.

    pip install atheris
    PYTHONPATH=src:tests python fuzz/endorsements.py fuzz/corpus/endorsements -max_total_time=300

The first byte of an input chooses: 0 windows of artefacts, 1 import, 2 answers of Intel's service, 3 needs of
Evidence (the second byte chooses the platform), 4 issuers of a TPM's certificate, 5 revocation of a path.
Genuine inputs of synthetic platforms, made anew with each start, are written into the corpus first.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["securetf"]):
    from securetf.attester import development_pki as pki
    from securetf.attester.simulated_enclave import simulated_report
    from securetf.claims import Evidence, Platform
    from securetf.endorsements import intel
    from securetf.endorsements.cache import KINDS, Cache
    from securetf.endorsements.importing import import_files
    from securetf.endorsements.library import Library
    from securetf.endorsements.needs import IssuersNeed
    from securetf.errors import SecuretfError
    from securetf.verifier import revocation
    from securetf.verifier.needs import needs_of
    from support.snp_platform import Platform as Chip

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEYS = pki.create(NOW, platform_id=bytes(16))
NOWHERE = Cache(Path("/nonexistent"))  # nothing is kept: a fuzzer would fill the disk
PATH = [KEYS.pck.certificate, KEYS.pck_ca.certificate, KEYS.root.certificate]


def read(kind: int, rest: bytes) -> None:
    """Read one input of a kind."""
    if kind == 0:
        for window in KINDS.values():
            try:
                window(rest)
            except SecuretfError:
                continue
    elif kind == 1:
        import_files(NOWHERE, [("file", rest)], update="standard", now=NOW)
    elif kind == 2:
        try:
            intel._document("url", rest, "tcbInfo")
        except SecuretfError:
            intel._crl("url", rest)
    elif kind == 3 and rest:
        platforms = list(Platform)
        needs_of(Evidence(platforms[rest[0] % len(platforms)], rest[1:]))
    elif kind == 4:
        Library(NOWHERE, None).obtain(IssuersNeed(chain=(rest,)), now=NOW)
    elif kind == 5:
        revocation.check("the path", PATH, [rest], NOW)


def one_input(data: bytes) -> None:
    """Feed one input; whatever leaves must be one of our errors."""
    if data:
        try:
            read(data[0], data[1:])
        except SecuretfError:
            return


def seeds() -> list[bytes]:
    """Return genuine inputs of each kind."""
    collateral = pki.endorse(KEYS, NOW).to_json().encode()
    crl, certificate, vcek = (
        pki.crl(KEYS.root, (), NOW),
        pki.pem_chain(KEYS.pck_ca).encode(),
        Chip().vcek().der(),
    )
    quote = KEYS.quoting_enclave().quote(simulated_report(bytes(64), mr_td=bytes(48), rtmr3=bytes(48)))
    artefacts = [collateral, crl, certificate, vcek]
    found = [bytes([kind]) + one for kind in (0, 1) for one in artefacts]
    found += [
        b"\2" + b'{"tcbInfo":{},"signature":"' + b"ab" * 64 + b'"}',
        b"\2" + crl,
        b"\4" + vcek,
        b"\5" + crl,
    ]
    return [*found, b"\3\0" + quote, b"\3\2" + Chip().signed()]


def main() -> None:
    """Write the seeds and fuzz."""
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            corpus = Path(argument)
            corpus.mkdir(parents=True, exist_ok=True)
            for number, seed in enumerate(seeds()):
                (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
