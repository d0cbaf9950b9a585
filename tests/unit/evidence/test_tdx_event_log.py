"""The event log of TDX: form, digests, replay; a log that lacks, repeats or moves an event is refused."""

import hashlib
import json
from typing import Any

import pytest

from securetf.attester.simulated_enclave import simulated_report
from securetf.errors import MalformedEvidenceError
from securetf.evidence import tdx_event_log as log
from securetf.evidence.tdx import TdReport


def runtime(name: str, payload: bytes = b"") -> dict[str, Any]:
    content = b":".join((log.RUNTIME_EVENT.to_bytes(4, "little"), name.encode(), payload))
    digest = hashlib.sha384(content).hexdigest()
    return {
        "imr": 3,
        "event_type": log.RUNTIME_EVENT,
        "digest": digest,
        "event": name,
        "event_payload": payload.hex(),
    }


BOOT = {"imr": 0, "event_type": 1, "digest": "01" * 48, "event": "", "event_payload": "ff"}
EVENTS = [BOOT, {**BOOT, "imr": 1}, runtime("one", b"1"), runtime("two")]


def raw(events: Any) -> bytes:
    return json.dumps(events).encode()


def body_of(events: list[dict[str, Any]]) -> TdReport:
    from dataclasses import replace  # noqa: PLC0415

    registers = log.replay(log.parse(raw(events)))
    values = dict(zip(("rtmr0", "rtmr1", "rtmr2", "rtmr3"), registers, strict=True))
    return replace(simulated_report(bytes(64), mr_td=bytes(48), rtmr3=bytes(48)), **values)


def test_replay_when_one_event_then_the_digest_of_zeros_and_the_event() -> None:
    registers = log.replay(log.parse(raw([BOOT])))
    assert registers[0] == hashlib.sha384(bytes(48) + b"\1" * 48).digest()
    assert registers[1:] == (bytes(48),) * 3


def test_check_when_the_log_is_whole_then_accepted() -> None:
    log.check(log.parse(raw(EVENTS)), body_of(EVENTS))


@pytest.mark.parametrize(
    ("events", "register"),
    [
        (EVENTS[1:], "rtmr0"),
        (EVENTS[:-1], "rtmr3"),
        ([*EVENTS, EVENTS[-1]], "rtmr3"),
        ([*EVENTS[:2], EVENTS[3], EVENTS[2]], "rtmr3"),
        ([BOOT, *EVENTS], "rtmr0"),
        ([], "rtmr0"),
    ],
)
def test_check_when_an_event_is_missing_repeated_or_moved_then_names_the_register(
    events: list[dict[str, Any]], register: str
) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"replays to {register} .* the quote has"):
        log.check(log.parse(raw(events)), body_of(EVENTS))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not strict JSON"),
        (b"[" * 100_000, "not strict JSON"),
        (b'[{"imr": 0, "imr": 1}]', "stands twice"),
        (b"{}", "not a list"),
        (raw([BOOT] * 4097).replace(b" ", b"")[: 250 * 1024] + b"", "not strict JSON|not a list|at most"),
        (bytes(256 * 1024 + 1), "at most 262144 are read"),
        (raw([{**BOOT, "more": 1}]), "not exactly the names"),
        (raw([1]), "not exactly the names"),
        (raw([{**BOOT, "imr": 4}]), "imr 4"),
        (raw([{**BOOT, "imr": -1}]), "imr -1"),
        (raw([{**BOOT, "imr": True}]), "another type"),
        (raw([{**BOOT, "event_type": 2**32}]), "type 4294967296"),
        (raw([{**BOOT, "digest": "01"}]), "digest of 1 bytes"),
        (raw([{**BOOT, "digest": "zz"}]), "not hexadecimal"),
        (b'[{"imr":0,"event_type":1,"digest":"","event":"\\ud800","event_payload":""}]', "not text"),
        (raw([{**runtime("one"), "event": "two"}]), r"event 0 \('two'\) has another digest"),
        (raw([{**runtime("one"), "event_payload": "00"}]), "another digest than its content"),
    ],
)
def test_parse_when_the_form_is_wrong_then_says_how(content: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        log.parse(content)
