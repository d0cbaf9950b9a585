"""Fuzz target (atheris) for SGX quotes: no input may raise anything but our errors.

    pip install atheris
    PYTHONPATH=src:tests python fuzz/sgx_quote.py fuzz/corpus/sgx_quote -max_total_time=300

The first byte of an input chooses: 0 parse a quote, 1 verify one. Genuine inputs of a synthetic machine, made
anew with each start, are written into the corpus first.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["securetf"]):
    from securetf.errors import EvidenceError, MalformedEvidenceError
    from securetf.evidence import sgx
    from support.sgx_platform import SgxPlatform

MACHINE = SgxPlatform.make()
COLLATERAL = MACHINE.endorse()
QUOTE = MACHINE.quote()


def one_input(data: bytes) -> None:
    """Feed one input; whatever leaves must be one of our errors."""
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        try:
            quote = sgx.parse(rest)
        except MalformedEvidenceError:
            return
        canonical = sgx.encode(quote)
        if not rest.startswith(canonical) or any(rest[len(canonical) :]):
            raise AssertionError("the canonical bytes are not the front of the quote")
    elif kind == b"\1":
        try:
            claims = MACHINE.verify(rest, endorsements=COLLATERAL)
        except EvidenceError:
            return
        if not claims.simulated or claims.measurement != b"\1" * 32:
            raise AssertionError("changed claims were accepted")


def main() -> None:
    """Write the seeds and fuzz."""
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            corpus = Path(argument)
            corpus.mkdir(parents=True, exist_ok=True)
            for number, seed in enumerate((b"\0" + QUOTE, b"\1" + QUOTE, b"\1" + QUOTE + bytes(9))):
                (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
