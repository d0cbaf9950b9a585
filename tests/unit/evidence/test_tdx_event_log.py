"""The event log of TDX: form, digests, replay; a log that lacks, repeats or moves an event is refused."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from securetf.attester.simulated_enclave import simulated_report
from securetf.errors import MalformedEvidenceError
from securetf.evidence import tcg_event_log
from securetf.evidence import tdx_event_log as log
from securetf.evidence.tcg_event_log import Event
from securetf.evidence.tdx import TdReport
from securetf.evidence.tpm2_quote import SHA256, SHA384
from support.tpm2 import make_log


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


@pytest.mark.usefixtures("uncollected")
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


# --- the firmware's own log (CCEL) --------------------------------------------------------------------------


def firmware(*events: Event, filling: bytes = b"\xff" * 64, banks: tuple[int, ...] = (SHA384,)) -> bytes:
    """Return an area as the firmware leaves it."""
    return tcg_event_log.encode(replace(make_log(*banks), events=events)) + filling


def measured(register: int, content: bytes, kind: int = 8) -> Event:
    return Event(pcr=register, kind=kind, digests=((SHA384, hashlib.sha384(content).digest()),), data=content)


FIRMWARE = (measured(0, b"said", kind=3), measured(1, b"one"), measured(2, b"two"), measured(3, b"three"))


def quoted(*events: Event) -> TdReport:
    """Return a TD report whose registers are those of these events, RTMR 3 extended by a program."""
    values = {f"rtmr{index}": bytes(48) for index in range(3)}
    for event in events:
        if event.kind != tcg_event_log.NO_ACTION:
            name = f"rtmr{event.pcr - 1}"
            values[name] = hashlib.sha384(values[name] + event.digests[0][1]).digest()
    return replace(simulated_report(bytes(64), mr_td=bytes(48), rtmr3=b"\7" * 48), **values)


def check_firmware(raw: bytes, body: TdReport) -> None:
    log.check(log.parse_firmware_log(raw), body, log.FIRMWARE_REGISTERS)


@pytest.mark.parametrize("filling", [b"", b"\xff" * 64, bytes(4096), b"\xff", b"\0" * 3])
def test_firmware_log_when_whole_then_replays_to_what_the_firmware_measured(filling: bytes) -> None:
    area = firmware(*FIRMWARE, filling=filling)
    assert log.is_firmware_log(area)
    check_firmware(area, quoted(*FIRMWARE))
    # The header's own register is free: 0 or 1 in genuine ones.
    check_firmware(b"\1" + area[1:], quoted(*FIRMWARE))
    assert not log.is_firmware_log(raw(EVENTS))


def test_firmware_log_when_an_event_is_missing_repeated_or_moved_then_names_the_register() -> None:
    for events, register in (
        (FIRMWARE[:-1], "rtmr2"),
        ((*FIRMWARE, FIRMWARE[1]), "rtmr0"),
        ((measured(2, b"one"), *FIRMWARE[2:]), "rtmr0"),
        ((), "rtmr0"),
    ):
        with pytest.raises(MalformedEvidenceError, match=f"replays to {register} .* the quote has"):
            check_firmware(firmware(*events), quoted(*FIRMWARE))


@pytest.mark.parametrize(
    ("area", "reason"),
    [
        (firmware(measured(5, b"x")), "event of register 5"),
        (firmware(measured(0, b"x")), "extends MRTD"),
        (firmware(banks=(SHA256,)), "not of SHA-384 alone"),
        (firmware(banks=(SHA256, SHA384)), "not of SHA-384 alone"),
        (firmware(*FIRMWARE, filling=b"\xff" * 8 + b"\0"), "something after what fills its end"),
        (firmware(*FIRMWARE, filling=bytes(8) + b"\1"), "something after what fills its end"),
        (firmware(*FIRMWARE, filling=b"\1" * 8), "has an event of PCR 16843009|event of register"),
        (firmware(*FIRMWARE)[:-70], "ends inside an entry"),
        (b"\5" + firmware()[1:], "does not start with a Spec ID event"),
        (b"", "ends inside an entry"),
        (firmware(*[measured(1, b"x")] * 4097), "more than 4096 events"),
    ],
)
def test_firmware_log_when_its_form_is_wrong_then_says_how(area: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        log.parse_firmware_log(area)
