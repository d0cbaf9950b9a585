"""Fuzz target (atheris) for event logs of firmware and of TDX: no input may raise anything but our errors.

    pip install atheris
    PYTHONPATH=src:tests python fuzz/event_log.py fuzz/corpus/event_log -max_total_time=300

The first byte of an input chooses: 0 a TCG log, 1 a log of TDX in JSON, 2 one of TDX's firmware. Genuine
inputs are written into the corpus first.
"""

import hashlib
import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["securetf"]):
    from securetf.errors import MalformedEvidenceError
    from securetf.evidence import tcg_event_log, tdx_event_log, tpm2_quote
    from support.tpm2 import LOG, make_log

DIGEST = hashlib.sha384(b":".join((tdx_event_log.RUNTIME_EVENT.to_bytes(4, "little"), b"one", b"\1")))
BOOT = {"imr": 0, "event_type": 1, "digest": "01" * 48, "event": "", "event_payload": "ff"}
RUNTIME = {
    "imr": 3,
    "event_type": tdx_event_log.RUNTIME_EVENT,
    "digest": DIGEST.hexdigest(),
    "event": "one",
    "event_payload": "01",
}


def read(kind: int, rest: bytes) -> None:
    """Read one input of a kind, replay it, and check that an accepted one was read whole."""
    if kind == 0:
        log = tcg_event_log.parse(rest)
        if tcg_event_log.encode(log) != rest:
            raise AssertionError("two byte strings mean the same")
        for algorithm in log.algorithms:
            tcg_event_log.replay(log, algorithm)
    elif kind == 2:
        tdx_event_log.replay(tdx_event_log.parse_firmware_log(rest))
    elif kind == 1:
        events = tdx_event_log.parse(rest)
        if len(events) != len(json.loads(rest)):
            raise AssertionError("events were left out")
        if any(len(register) != 48 for register in tdx_event_log.replay(events)):
            raise AssertionError("a register has another size")


def one_input(data: bytes) -> None:
    """Feed one input; whatever leaves must be one of our errors."""
    if data:
        try:
            read(data[0], data[1:])
        except MalformedEvidenceError:
            return


def main() -> None:
    """Write the seeds and fuzz."""
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            corpus = Path(argument)
            corpus.mkdir(parents=True, exist_ok=True)
            seeds = (b"\0" + tcg_event_log.encode(LOG), b"\1" + json.dumps([BOOT, RUNTIME]).encode())
            seeds += (b"\2" + tcg_event_log.encode(make_log(tpm2_quote.SHA384)) + b"\xff" * 9,)
            for number, seed in enumerate(seeds):
                (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
