"""kill -9 of CAS and launcher at random points while a program writes: nothing acknowledged is lost.

Real processes, started as a user starts them. The program says each fsync that returned; whatever it said
must be there after every crash. SECURETF_KILLS=200 gives the number of kills; the seed is printed, and
SECURETF_SEED repeats one.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cloud import SECUR_ETF, alive, until
from support.scene import PATIENCE_S, PROGRAM, Scene

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts"),
]
KILLS = int(os.environ.get("SECURETF_KILLS", "20"))
AWAY_S = 60  # seconds without a CAS


@pytest.fixture
def seed() -> str:
    value = os.environ.get("SECURETF_SEED", str(random.SystemRandom().randrange(1 << 32)))
    print(f"SECURETF_SEED={value}")
    return value


@pytest.fixture
def scene(tmp_path: Path, seed: str) -> Iterator[Scene]:
    one = Scene(tmp_path, seed)
    yield one
    one.close()


def test_run_when_launcher_or_cas_is_killed_at_any_point_keeps_what_was_acknowledged(
    scene: Scene, seed: str
) -> None:
    choice, begin, figures = random.Random(seed), time.monotonic(), {}
    while scene.kills < KILLS:
        name = choice.choice(("early", "launcher", "launcher", "cas", "cas", "both", "end"))
        figures[name] = figures.get(name, 0) + 1
        KINDS[name](scene, choice)
        scene.check_host()
    last = scene.run(ONLY_VERIFY="1")
    assert (last.process.wait(PATIENCE_S), last.end().count("error")) == (0, 0), last.end()
    assert last.verified.is_set()
    check_as_owner(scene)
    until(lambda: not Path(scene.job.base).exists())
    sizes = sum(path.stat().st_size for path in scene.job.volumes.rglob("*") if path.is_file())
    print(
        f"{scene.kills} kills in rounds {figures}, {scene.verified} verified restarts, {scene.acknowledged} "
        f"acknowledged steps, none lost; ciphertext {sizes} bytes; {time.monotonic() - begin:.0f} s on "
        f"{file_system(scene.directory)}"
    )
    assert scene.acknowledged > KILLS  # work was done between the kills
    assert scene.verified > KILLS // 4


def killed_early(scene: Scene, choice: random.Random) -> None:
    """The launcher, anywhere from its first instruction to the program's first writes."""
    run = scene.run()
    time.sleep(choice.uniform(0.0, 1.5))
    run.kill()


def killed_launcher(scene: Scene, choice: random.Random) -> None:
    """The launcher, while the program writes."""
    run = scene.run()
    run.wait_verified()
    time.sleep(choice.uniform(0.0, 1.0))
    run.kill()
    assert run.errors == []


def killed_cas(scene: Scene, choice: random.Random) -> None:
    """The CAS, perhaps again while it starts; the program, which never notices, goes on; the launcher."""
    run = scene.run()
    run.wait_verified()
    time.sleep(choice.uniform(0.0, 0.7))
    scene.kill_cas()
    time.sleep(choice.uniform(0.0, 0.5))
    if choice.random() < 0.3:
        starting = subprocess.Popen(
            [str(one) for one in scene.cloud.cas.args], stdout=subprocess.DEVNULL, stderr=scene.cloud.log
        )
        time.sleep(choice.uniform(0.0, 1.5))
        starting.kill()
        starting.wait()
        scene.kills += 1
    scene.restart_cas()
    run.wait_progress(2)
    run.kill()
    assert run.errors == []


def killed_both(scene: Scene, choice: random.Random) -> None:
    """CAS and launcher within milliseconds, in either order."""
    run = scene.run()
    run.wait_verified()
    time.sleep(choice.uniform(0.0, 0.7))
    actions = [run.kill, scene.kill_cas]
    choice.shuffle(actions)
    for action in actions:
        action()
        time.sleep(choice.choice((0, 0, choice.uniform(0, 0.05))))
    scene.restart_cas()


def killed_at_the_end(scene: Scene, choice: random.Random) -> None:
    """The launcher, while it commits and unmounts after the program ended; perhaps it is done by then."""
    run = scene.run()
    run.wait_verified()
    time.sleep(choice.uniform(0.0, 0.3))
    run.process.terminate()
    time.sleep(choice.uniform(0.0, 0.15))
    run.kill()


KINDS = {
    "early": killed_early,
    "launcher": killed_launcher,
    "cas": killed_cas,
    "both": killed_both,
    "end": killed_at_the_end,
}


def check_as_owner(scene: Scene) -> None:
    """`securetf volume check` and `unpack` with the owner's key: nothing damaged, everything is there."""
    directory, out = str(scene.job.volumes / "model"), str(scene.directory / "unpacked")
    options = ["--cas", str(scene.cloud.trust_file), "--session", scene.job.name, "--volume", "model"]
    for command in (["check", directory], ["unpack", directory, out]):
        succeed(*SECUR_ETF, "volume", *command, *options, "--key", str(scene.cloud.key_file))
    environment = f"START={','.join(map(str, scene.starts))}"
    program = [sys.executable, PROGRAM, out, scene.seed, "/dev/null"]
    succeed("env", "ONLY_VERIFY=1", environment, *program)


def succeed(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def file_system(path: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_run_when_the_cas_comes_back_in_time_the_program_only_waits(scene: Scene) -> None:
    run = scene.run()
    run.wait_verified()
    run.wait_progress()
    scene.kill_cas()
    time.sleep(0.5)  # what was acknowledged just before has been read by now
    before = list(scene.starts)
    time.sleep(3)
    assert scene.starts == before  # nothing is acknowledged that the CAS did not anchor
    scene.restart_cas()
    run.wait_progress(3)
    assert run.errors == []
    run.process.terminate()
    text = run.end()
    assert run.process.returncode == 0, text
    again = scene.run(ONLY_VERIFY="1")
    assert again.process.wait(PATIENCE_S) == 0, again.end()
    again.end()
    scene.check_host()


def test_run_when_the_cas_stays_away_fsync_fails_with_eio_and_nothing_acknowledged_is_lost(
    scene: Scene,
) -> None:
    run = scene.run()
    run.wait_verified()
    run.wait_progress()
    scene.kill_cas()
    gone = time.monotonic()
    until(lambda: run.errors or run.process.poll() is not None, PATIENCE_S)
    waited = run.errors[0][1] - gone
    print(f"fsync failed after {waited:.1f} s without a CAS")
    assert 25 < waited < 45
    while time.monotonic() < gone + AWAY_S:  # the program tries again and again
        assert run.process.poll() is None, run.end()
        time.sleep(0.5)
    assert {number for number, _ in run.errors} == {errno.EIO}, run.errors
    before = list(scene.starts)
    scene.restart_cas()
    run.wait_progress(2)  # the same mount works again
    assert all(start >= old + 2 for start, old in zip(scene.starts, before, strict=True))
    run.kill()
    again = scene.run(ONLY_VERIFY="1")
    assert again.process.wait(PATIENCE_S) == 0, again.end()
    again.end()
    scene.check_host()


def test_run_when_killed_takes_the_programs_children_with_it(scene: Scene, tmp_path: Path) -> None:
    pid_file = tmp_path / "child"
    job = scene.job
    job.name += "-children"
    job.shell(
        f"(setsid sh -c 'echo $$ > {pid_file}; sleep 600') & while :; do sleep 0.1; done",
        workload=f'volumes = {{ model = "{job.base}:rw" }}',
        tables='[volumes.model]\nwriter = "trainer"\n',
    )
    process = job.start()
    until(lambda: (pid_file.exists() and pid_file.read_text()) or process.poll() is not None, PATIENCE_S)
    process.kill()
    process.wait()
    child = int(pid_file.read_text())
    try:
        until(lambda: not alive(child) and not scene.processes())
    finally:
        if alive(child):
            os.killpg(child, signal.SIGKILL)
