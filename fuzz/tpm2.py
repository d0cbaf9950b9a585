"""Fuzz target (atheris) for TPM, Azure and Google Evidence: no input may raise anything but our errors.

    pip install atheris
    PYTHONPATH=src:tests python fuzz/tpm2.py fuzz/corpus/tpm2 -max_total_time=300

The first byte of an input chooses the parser, in the order of `PARSERS`; one more than the last verifies our
envelope. Genuine inputs of a synthetic TPM, made anew with each start, are written into the corpus first.
"""

import json
import sys
from pathlib import Path
from typing import Any

import atheris
from cryptography.hazmat.primitives.asymmetric import rsa

with atheris.instrument_imports(include=["securetf"]):
    from securetf.errors import EvidenceError, MalformedEvidenceError
    from securetf.evidence import azure_vtpm, gcp_vtpm, tcg_event_log, tpm2, tpm2_public, tpm2_quote
    from support.azure import Machine
    from support.tpm2 import LOG, make_tpm, sign

TPM = make_tpm()
EVIDENCE = TPM.evidence()
MACHINE = Machine(rsa.generate_private_key(65537, 2048))
# Parser, its encoder where there is one, a genuine input.
PARSERS: list[tuple[Any, Any, bytes]] = [
    (tpm2.parse, tpm2.encode, EVIDENCE),
    (tpm2_quote.parse_quote, tpm2_quote.encode_quote, tpm2_quote.encode_quote(TPM.quote())),
    (
        tpm2_quote.parse_signature,
        tpm2_quote.encode_signature,
        tpm2_quote.encode_signature(sign(TPM.key, TPM.quote())),
    ),
    (tpm2_public.parse, tpm2_public.encode, tpm2_public.encode(TPM.public)),
    (tcg_event_log.parse, tcg_event_log.encode, tcg_event_log.encode(LOG)),
    (azure_vtpm.parse, None, json.dumps(MACHINE.envelope()).encode()),
    (azure_vtpm.parse_hcl, None, MACHINE.hcl()),
    (gcp_vtpm.parse, None, b"\x0a\x02\0\x01"),
]


def one_input(data: bytes) -> None:
    """Feed one input; whatever leaves must be one of our errors."""
    if not data:
        return
    if data[0] < len(PARSERS):
        parse, encode, _ = PARSERS[data[0]]
        try:
            found = parse(data[1:])
        except MalformedEvidenceError:
            return
        if encode is not None and encode(found) != data[1:]:
            raise AssertionError("two byte strings mean the same")
        if parse is tcg_event_log.parse:
            try:
                tcg_event_log.replay(found, found.algorithms[0])
            except MalformedEvidenceError:
                return
    elif data[0] == len(PARSERS):
        try:
            claims = TPM.verify(data[1:])
        except EvidenceError:
            return
        if dict(claims.registers) != {f"pcr{index}": value for index, value in TPM.pcrs.items()}:
            raise AssertionError("changed claims were accepted")


def main() -> None:
    """Write the seeds and fuzz."""
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            corpus = Path(argument)
            corpus.mkdir(parents=True, exist_ok=True)
            seeds = [bytes([kind]) + seed for kind, (_, _, seed) in enumerate(PARSERS)]
            seeds.append(bytes([len(PARSERS)]) + EVIDENCE)
            for number, seed in enumerate(seeds):
                (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
