"""kill -9 of the CAS at random points: no answered write is lost, and it starts again each time.

20 rounds; SECURETF_KILL_ROUNDS raises it (the release criterion is 200).
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from securetf.attester.insecure_simulation import create_platform, load_anchor
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasClient, CasTrust
from securetf.cas_client.attest_cas import attest_cas
from securetf.claims import Platform
from securetf.errors import CasIdentityError, CasProtocolError, CasUnreachableError
from securetf.keys import OwnerKey
from securetf.manifest import PlatformPolicy
from securetf.verifier.insecure_simulation import verifier

ROUNDS = int(os.environ.get("SECURETF_KILL_ROUNDS", "20"))
SESSION = "acme/kill"
WRITERS = 4
LOST = (CasUnreachableError, CasProtocolError, CasIdentityError)


def start(directory: Path) -> tuple["subprocess.Popen[str]", str]:
    command = [
        sys.executable, "-c", "import securetf.cli; securetf.cli.main()",
        "cas", "start", "--data", str(directory / "data"), "--listen", "127.0.0.1:0",
        "--insecure-simulation", str(directory / "platform"),
        "--insecure-anchor", str(directory / "INSECURE-anchor"),
    ]  # fmt: skip
    with (directory / "log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the CAS did not start again: {(directory / 'log').read_text()[-2000:]}"
    return process, json.loads(line)["url"]


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert process.stdout is not None
    process.stdout.close()


class Writer(threading.Thread):
    """Advances one volume, step by step, until the CAS is gone; remembers what was answered."""

    def __init__(self, client: CasClient, key: OwnerKey, volume: str, seq: int, root: bytes) -> None:
        super().__init__()
        self.client, self.key, self.volume = client, key, volume
        self.answered, self.asked = (seq, root), (seq, root)
        self.epoch = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            grant = self.client.packing_grant(SESSION, self.volume, self.key)
            self.epoch = grant.epoch
            self.asked = self.answered = (grant.seq, grant.root)
            while True:
                seq, root = self.answered
                self.asked = (seq + 1, hashlib.sha256(root + b"%d" % seq).digest())
                self.client.advance(
                    grant.volume_id,
                    epoch=grant.epoch,
                    seq=seq,
                    root=root,
                    new_seq=self.asked[0],
                    new_root=self.asked[1],
                )
                self.answered = self.asked
        except LOST:
            return
        except BaseException as error:  # noqa: BLE001 - shown by the test's thread
            self.failure = error


def pinned(directory: Path, url: str) -> CasTrust:
    anchors = load_anchor(directory / "platform")
    return attest_cas(
        url,
        verifiers_for=lambda found: {Platform.INSECURE_SIMULATION: verifier(anchors, found)},
        policy=PlatformPolicy(mr_td=(software_measurement().hex(),)),
        now=datetime.now(UTC),
    )


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * ROUNDS)
def test_no_answered_write_is_lost_when_the_cas_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("SECURETF_KILL_SEED", str(time.time_ns() % 10**9)))
    print(f"SECURETF_KILL_SEED={seed}")
    chance = random.Random(seed)
    create_platform(tmp_path / "platform", datetime.now(UTC))
    process, url = start(tmp_path)
    try:
        trust, key = pinned(tmp_path, url), OwnerKey.generate()
        names = [f"v{number}" for number in range(WRITERS)]
        with CasClient(trust) as client:
            client.create_session(
                f'[session]\nname = "{SESSION}"\n' + "".join(f"[volumes.{name}]\n" for name in names), key
            )
        states = dict.fromkeys(names, (0, bytes(32)))
        answered = 0
        for round_number in range(ROUNDS):
            with CasClient(trust, deadline_s=20) as client:
                writers = [Writer(client, key, name, *states[name]) for name in names]
                for writer in writers:
                    writer.start()
                time.sleep(chance.uniform(0.0, 0.25))
                kill(process)
                for writer in writers:
                    writer.join(30)
            assert [writer.failure for writer in writers] == [None] * WRITERS
            process, url = start(tmp_path)
            trust = replace(trust, url=url)
            with CasClient(trust) as client:
                found = {state.name: state for state in client.read_session(SESSION, key).volumes}
            for writer in writers:
                state = found[writer.volume]
                assert (state.seq, state.root) in (writer.answered, writer.asked), (
                    f"round {round_number}: {writer.volume} is at {state.seq}, answered was "
                    f"{writer.answered[0]}"
                )
                assert state.epoch >= writer.epoch, "a granted epoch was lost"
                answered += writer.answered[0] - states[writer.volume][0]
                states[writer.volume] = (state.seq, state.root)
        assert answered > ROUNDS
    finally:
        kill(process)


def test_a_first_start_that_is_killed_can_be_repeated(tmp_path: Path) -> None:
    create_platform(tmp_path / "platform", datetime.now(UTC))
    for delay_s in (0.2, 0.3, 0.4, 0.5, 0.6):
        process = subprocess.Popen(
            [
                sys.executable, "-c", "import securetf.cli; securetf.cli.main()",
                "cas", "start", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0",
                "--insecure-simulation", str(tmp_path / "platform"),
                "--insecure-anchor", str(tmp_path / "INSECURE-anchor"),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        time.sleep(delay_s)
        kill(process)
    process, _ = start(tmp_path)
    kill(process)
