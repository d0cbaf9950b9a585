"""The launcher with real namespaces, tmpfs, signals and programs: what the program gets and what is left behind."""

# ruff: noqa: E501  (shell programs and expected messages)

import os
import pty
import signal
from pathlib import Path

import pytest

from support.launching import GIVEN, Launch, alive, until

COVERED = ("/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/hosts")
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)]
)
def test_run_when_the_program_ends_keeps_its_status(launch: Launch, script: str, status: int) -> None:
    assert launch.shell(script).run().returncode == status
    assert launch.report["exit_status"] == status


def test_report_tells_the_processor_time_of_the_program_from_the_launchers(launch: Launch) -> None:
    launch.shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done").run()
    used = launch.report["processor_seconds"]
    assert used["program"] > 0.05
    assert 0 < used["until_program"] < 20
    assert 0 <= used["beside_program"] < 20


def test_run_when_the_host_has_variables_passes_only_those_that_the_manifest_names(launch: Launch) -> None:
    launch.environment |= {"RANK": "3", "WORLD": "9", "LD_PRELOAD": "", "SECRET_OF_HOST": "x"}
    launch.write(
        "/usr/bin/env", environment='{ SEED = "7", LANG = "C" }', host_environment='["RANK", "ABSENT"]'
    )
    lines = launch.run().stdout.splitlines()
    assert sorted(line for line in lines if not line.startswith(("PWD=", "_=", "SHLVL="))) == [
        "HOME=/run/securetf/home",
        "LANG=C",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "RANK=3",
        "SEED=7",
        "TMPDIR=/run/securetf/tmp",
    ]


def test_run_when_secrets_are_named_gives_files_in_memory_and_variables(launch: Launch) -> None:
    tables = '[secrets.token]\nkind = "value"\n[secrets.seed]\nkind = "random"\nsize_bytes = 32\n'
    launch.config["secrets"] = {"token": GIVEN, "seed": "00ff" * 16}
    path = f"{launch.base}/token"
    launch.shell(
        f"cat {path}; stat -c %a:%u {path}; stat -f -c %T {path}; stat -c %a {launch.base}; echo $SEED; echo >>{path}.new;"
        " tr '\\0' ' ' < /proc/$PPID/cmdline; tr '\\0' ' ' < /proc/$PPID/environ",
        tables,
        secrets=f'{{ token = "file:{path}", seed = "env:SEED" }}',
    )
    result = launch.run()
    lines = result.stdout.splitlines()
    assert lines[:5] == ["secret that the owner gave", "400:0", "tmpfs", "700", "00ff" * 16]
    assert "00ff00ff" not in lines[5]
    assert "secret that" not in lines[5]
    assert "secret that" not in (launch.directory / "report").read_text()
    assert "00ff00ff" not in (launch.directory / "report").read_text()


def test_run_when_the_program_runs_the_host_sees_neither_mounts_nor_secrets(launch: Launch) -> None:
    (launch.directory / "v").mkdir()
    (launch.directory / "v" / "plain").write_text("plaintext")
    launch.config |= {"secrets": {"token": GIVEN}, "volumes": {"v": str(launch.directory / "v")}}
    launch.shell(
        f"cat {launch.base}/data/plain > $HOME/copy; echo >{launch.base}/data/no; mv $HOME/copy {launch.directory}/seen;"
        f" sleep 60",
        '[secrets.token]\nkind = "value"\n[volumes.v]\n',
        volumes=f'{{ v = "{launch.base}/data:ro" }}',
        secrets=f'{{ token = "file:{launch.base}/s/token" }}',
    )
    process = launch.start()
    assert launch.file("seen") == "plaintext"
    assert launch.base not in Path("/proc/self/mounts").read_text()
    assert "/run/securetf " not in Path("/proc/self/mounts").read_text()
    assert os.listdir(f"{launch.base}/data") == []
    assert os.listdir(f"{launch.base}/s") == []
    assert not (launch.directory / "v" / "no").exists()
    process.terminate()
    assert process.wait(20) == 143
    assert b"Read-only" in process.stderr.read()
    until(lambda: not Path(launch.base).exists())


def test_run_when_mounts_are_nested_mounts_the_longest_last_and_undoes_in_reverse(launch: Launch) -> None:
    launch.config["volumes"] = {"inner": str(launch.directory / "i"), "outer": str(launch.directory / "o")}
    base = launch.base
    launch.shell(
        f"echo a > {base}/o/x/i/file; echo b > {base}/o/file; rmdir {base}/o/x/i 2>/dev/null; ls {base}/o",
        '[volumes.inner]\nwriter = "trainer"\n[volumes.outer]\nwriter = "trainer"\n',
        volumes=f'{{ inner = "{base}/o/x/i:rw", outer = "{base}/o:rw" }}',
        memory=f'{{ "{base}/m" = 65536 }}',
    )
    result = launch.run()
    assert result.returncode == 0, result.stderr
    assert launch.events == [
        "measure", "provision", "mount /run/securetf", f"mount {base}/m", f"mount {base}/o", f"mount {base}/o/x/i",
        "raise trainer-0 None", *(f"unmount {os.path.realpath(file)}" for file in COVERED), "lower",
        f"unmount {base}/o/x/i", f"commit {base}/o/x/i", f"unmount {base}/o", f"commit {base}/o",
        f"unmount {base}/m", "unmount /run/securetf", "close",
    ]  # fmt: skip
    assert (launch.directory / "i" / "file").read_text() == "a\n"
    assert sorted(os.listdir(launch.directory / "o")) == ["file"]  # the mount point inside it is gone again
    until(lambda: not Path(base).exists())


@pytest.mark.parametrize("name", ["TERM", "HUP", "USR1", "USR2", "INT"])
def test_run_when_a_signal_comes_hands_it_to_the_program(launch: Launch, name: str) -> None:
    ready = launch.directory / "ready"
    script = f"trap 'echo got {name}; exit 3' {name}; echo >{ready}; while :; do sleep 0.05; done"
    process = launch.shell(script).start()
    launch.file("ready")
    process.send_signal(getattr(signal, f"SIG{name}"))
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, f"got {name}\n".encode())


def test_run_when_ctrl_c_is_typed_the_program_gets_it_once(launch: Launch) -> None:
    ready = launch.directory / "ready"
    launch.write(
        "/usr/bin/python3", "-c",
        "import signal, time\nseen = []\nsignal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        f"open({str(ready)!r}, 'w').close()\nend = time.monotonic() + 1\n"
        "while time.monotonic() < end: time.sleep(0.05)\nraise SystemExit(40 + len(seen))",
    )  # fmt: skip
    ours, theirs = pty.openpty()
    process = launch.start(
        stdin=theirs, preexec_fn=lambda: (os.setsid(), __import__("fcntl").ioctl(0, 0x540E, 0))
    )  # TIOCSCTTY
    launch.file("ready")
    os.write(ours, b"\x03")
    process.communicate(timeout=20)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 41


def test_run_when_the_launcher_is_killed_the_program_dies_and_the_next_run_works(launch: Launch) -> None:
    launch.config |= {"volumes": {"v": str(launch.directory / "v")}}
    (launch.directory / "v").mkdir()
    launch.shell(
        f"echo $$ > {launch.directory}/new; mv {launch.directory}/new {launch.directory}/pid; exec sleep 60",
        "[volumes.v]\n",
        volumes=f'{{ v = "{launch.base}/v:ro" }}',
    )
    process = launch.start()
    pid = int(launch.file("pid"))
    assert alive(pid)
    process.kill()
    process.wait()
    until(lambda: not alive(pid))
    assert launch.base not in Path("/proc/self/mounts").read_text()
    launch.shell("exit 5", "[volumes.v]\n", volumes=f'{{ v = "{launch.base}/v:ro" }}')
    assert launch.run().returncode == 5
    until(lambda: not Path(launch.base).exists())  # cleans up after the killed one, too


def test_run_when_the_program_leaves_processes_behind_ends_them_before_the_commit(launch: Launch) -> None:
    launch.config |= {"volumes": {"v": str(launch.directory / "v")}}
    launch.shell(
        f"setsid -f sh -c 'cd {launch.base}/v; echo $$ >{launch.directory}/new; mv {launch.directory}/new "
        f"{launch.directory}/pid; exec sleep 60'; while ! test -e {launch.directory}/pid; do sleep 0.02; done; exit 4",
        '[volumes.v]\nwriter = "trainer"\n',
        volumes=f'{{ v = "{launch.base}/v:rw" }}',
    )
    assert launch.run().returncode == 4
    assert not alive(int(launch.file("pid")))
    assert f"commit {launch.base}/v" in launch.events


def test_run_when_a_signal_comes_before_the_start_undoes_and_never_starts(launch: Launch) -> None:
    launch.config["provision_seconds"] = 1
    process = launch.shell(f"touch {launch.directory}/started").start()
    until(lambda: "provision" in launch.events)
    process.terminate()
    process.wait(20)
    assert process.returncode == 143
    assert launch.events == ["measure", "provision", "close"]
    assert not (launch.directory / "started").exists()


def test_run_when_a_step_hangs_after_a_signal_gives_up(launch: Launch) -> None:
    launch.config |= {"provision_seconds": 50, "cancel_s": 0.3}
    process = launch.shell("exit 0").start()
    until(lambda: "provision" in launch.events)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
