"""Fuzz target (atheris) for Nitro documents and CBOR: no input may raise anything but our errors.

    pip install atheris
    PYTHONPATH=src:tests python fuzz/nitro.py fuzz/corpus/nitro -max_total_time=300

The first byte of an input chooses: 0 CBOR, 1 CBOR with open maps, 2 parse a document, 3 parse a payload that
stands in a document, 4 verify a document. Genuine inputs of a synthetic module, made anew with each start,
are written into the corpus first.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["securetf"]):
    from securetf.errors import EvidenceError, MalformedEvidenceError
    from securetf.evidence import cbor, nitro
    from support.nitro import REPORT_DATA, make_module

MODULE = make_module()
DOCUMENT = MODULE.document()
PAYLOAD = cbor.encode(MODULE.payload())


def read(kind: bytes, rest: bytes) -> None:
    """Read one input of a kind; check that what was read is canonical."""
    if kind == b"\0":
        if cbor.encode(cbor.decode(rest)) != rest:
            raise AssertionError("two byte strings mean the same")
    elif kind == b"\1":
        cbor.decode_with_open_maps(rest)
    elif kind == b"\2":
        if nitro.encode(nitro.parse(rest)) not in {rest, rest[1:]}:
            raise AssertionError("two documents mean the same")
    elif kind == b"\3":
        nitro.parse(cbor.encode((nitro.PROTECTED, {}, rest, bytes(96))))


def one_input(data: bytes) -> None:
    """Feed one input; whatever leaves must be one of our errors."""
    kind, rest = data[:1], data[1:]
    try:
        read(kind, rest)
    except MalformedEvidenceError:
        return
    if kind == b"\4":
        try:
            claims = MODULE.verify(rest)
        except EvidenceError:
            return
        if claims.report_data != REPORT_DATA or claims.registers["pcr0"] != b"\1" * 48:
            raise AssertionError("changed claims were accepted")


def main() -> None:
    """Write the seeds and fuzz."""
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            corpus = Path(argument)
            corpus.mkdir(parents=True, exist_ok=True)
            opened = b"\xbf" + PAYLOAD[1:] + b"\xff"
            seeds = (
                b"\0" + PAYLOAD,
                b"\1" + opened,
                b"\2" + DOCUMENT,
                b"\3" + PAYLOAD,
                b"\3" + opened,
                b"\4" + DOCUMENT,
            )
            for number, seed in enumerate(seeds):
                (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
