"""The launcher with real namespaces, tmpfs, signals and programs: what the program gets and what is left behind."""

# ruff: noqa: E501  (shell programs and expected messages)

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from securetf import manifest as manifests
from securetf.errors import EnvironmentUnfitError
from securetf.launcher.plan import plan
from securetf.launcher.run import check_host

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
DRIVER = Path(__file__).with_name("kernel_launch.py")
GIVEN = "736563726574207468617420746865206f776e657220676176650a"  # "secret that the owner gave\n"


class Launch:
    """One Manifest and the process that runs it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = f"/securetf-test-{uuid.uuid4().hex}"  # mount points at the top of the real root, unique
        self.manifest = directory / "manifest.toml"
        self.config: dict[str, object] = {
            "manifest": str(self.manifest), "events": str(directory / "events"), "report": str(directory / "report"),
        }  # fmt: skip
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        self.processes: list[subprocess.Popen[bytes]] = []

    def write(self, *command: str, tables: str = "", **keys: str) -> "Launch":
        lines = [f"{key} = {value}" for key, value in keys.items()]
        self.manifest.write_text(
            '[session]\nname = "acme/test"\n[workloads.trainer]\n'
            f"command = {json.dumps(list(command))}\n" + "\n".join(lines) + "\n" + tables
        )
        return self

    def shell(self, script: str, tables: str = "", **keys: str) -> "Launch":
        return self.write("/bin/sh", "-c", script, tables=tables, **keys)

    def start(self, **options: object) -> "subprocess.Popen[bytes]":
        config = self.directory / "config.json"
        config.write_text(json.dumps(self.config))
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), str(config)],
            env=self.environment,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        self.processes.append(process)
        return process

    def run(self) -> "subprocess.CompletedProcess[str]":
        process = self.start()
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess([], process.returncode, out.decode(), err.decode())

    @property
    def events(self) -> list[str]:
        file = self.directory / "events"
        return file.read_text().split("\n")[:-1] if file.exists() else []

    @property
    def report(self) -> dict[str, object]:
        return json.loads((self.directory / "report").read_text())

    def file(self, name: str, timeout_s: float = 20) -> str:
        """Wait for a file that the program writes whole."""
        path = self.directory / name
        until(path.exists, timeout_s)
        return path.read_text()


def until(condition, timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    one = Launch(tmp_path)
    yield one
    for process in one.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
    left = [Path(one.base)] if Path(one.base).exists() else []
    for path in left:  # only after a test that failed
        with contextlib.suppress(OSError):
            path.rmdir()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)]
)
def test_run_when_the_program_ends_keeps_its_status(launch: Launch, script: str, status: int) -> None:
    assert launch.shell(script).run().returncode == status
    assert launch.report["exit_status"] == status


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


def test_run_when_the_cas_is_unreachable_says_so_and_starts_nothing(launch: Launch) -> None:
    launch.config["unreachable"] = True
    result = launch.shell(f"touch {launch.directory}/started").run()
    assert (result.returncode, "[STF-1410] nobody listens" in result.stderr) == (14, True)
    assert launch.events == ["measure", "provision", "close"]
    assert not (launch.directory / "started").exists()


def test_run_when_one_volume_fails_takes_the_mounted_ones_down(launch: Launch) -> None:
    launch.config |= {"volumes": {"a": str(launch.directory / "a"), "b": str(launch.directory / "b")}}
    launch.config["broken_volume"] = "b"
    launch.shell(
        "exit 0",
        '[volumes.a]\nwriter = "trainer"\n[volumes.b]\nwriter = "trainer"\n',
        volumes=f'{{ a = "{launch.base}/a:rw", b = "{launch.base}/b:rw" }}',
    )
    result = launch.run()
    assert (result.returncode, "volume b cannot be opened" in result.stderr) == (14, True)
    assert launch.events == [
        "measure", "provision", "mount /run/securetf", f"mount {launch.base}/a",
        f"unmount {launch.base}/a", f"commit {launch.base}/a", "unmount /run/securetf", "close",
    ]  # fmt: skip
    until(lambda: not Path(launch.base).exists())


@pytest.mark.parametrize(("program", "status", "code"), [(0, 20, "[STF-3001]"), (7, 7, "the CAS was lost")])
def test_run_when_the_last_commit_fails_says_so_and_is_never_zero(
    launch: Launch, program: int, status: int, code: str
) -> None:
    launch.config |= {"volumes": {"a": str(launch.directory / "a"), "b": str(launch.directory / "b")}}
    launch.config["uncommitted"] = ["b"]
    launch.shell(
        f"exit {program}",
        '[volumes.a]\nwriter = "trainer"\n[volumes.b]\nwriter = "trainer"\n',
        volumes=f'{{ a = "{launch.base}/a:rw", b = "{launch.base}/b:rw" }}',
    )
    result = launch.run()
    assert result.returncode == status
    assert code in result.stderr
    assert "volume b: the CAS was lost" in result.stderr
    assert f"commit {launch.base}/a" in launch.events  # the other volume is still committed


@pytest.mark.parametrize(
    ("command", "keys", "problem"),
    [
        (("no-such-program",), {}, "no-such-program is in no directory of PATH (/usr/local/sbin:"),
        (("/no/such",), {}, "the program /no/such does not exist"),
        (("/etc/passwd",), {}, "the program /etc/passwd is not executable"),
        (
            ("true",),
            {"working_directory": '"/no/such"'},
            "the working directory /no/such cannot be entered: No such",
        ),
    ],
)
def test_run_when_the_program_cannot_be_started_says_why(
    launch: Launch, command: tuple[str, ...], keys: dict[str, str], problem: str
) -> None:
    result = launch.write(*command, **keys).run()
    assert (result.returncode, result.stderr.startswith("[STF-3000]")) == (30, True)
    assert problem in result.stderr


def test_run_when_the_directory_for_secrets_holds_something_refuses(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    launch.config["secrets"] = {"token": GIVEN}
    launch.shell(
        "exit 0", '[secrets.token]\nkind = "value"\n', secrets=f'{{ token = "file:{tmp_path}/used/token" }}'
    )
    result = launch.run()
    assert (result.returncode, f"{tmp_path}/used is for secrets alone, but holds file" in result.stderr) == (
        30,
        True,
    )


def test_run_when_a_secret_for_a_variable_holds_a_nul_refuses(launch: Launch) -> None:
    launch.config["secrets"] = {"token": "610062"}
    launch.shell("exit 0", '[secrets.token]\nkind = "value"\n', secrets='{ token = "env:TOKEN" }')
    result = launch.run()
    assert (result.returncode, "the secret token holds a NUL, so TOKEN cannot carry it" in result.stderr) == (
        30,
        True,
    )


def test_run_when_a_mount_point_is_missing_in_a_read_only_volume_refuses(launch: Launch) -> None:
    (launch.directory / "o").mkdir()
    launch.config["volumes"] = {"i": str(launch.directory / "i"), "o": str(launch.directory / "o")}
    launch.shell(
        "exit 0",
        '[volumes.i]\nwriter = "trainer"\n[volumes.o]\n',
        volumes=f'{{ i = "{launch.base}/o/i:rw", o = "{launch.base}/o:ro" }}',
    )
    result = launch.run()
    assert result.returncode == 30
    assert f"{launch.base}/o/i does not exist in the volume o, which is read-only" in result.stderr


def test_run_when_a_mount_point_is_a_file_refuses(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = launch.shell("exit 0", memory=f'{{ "{tmp_path}/file" = 4096 }}').run()
    assert (result.returncode, f"the mount point {tmp_path}/file cannot be made" in result.stderr) == (
        30,
        True,
    )


def test_run_when_the_cas_released_for_another_manifest_refuses(launch: Launch) -> None:
    launch.config["manifest_hash"] = "ab" * 32
    result = launch.shell("exit 0").run()
    assert (result.returncode, f"released for the Manifest sha256:{'ab' * 32}" in result.stderr) == (30, True)


def test_run_when_a_secret_was_not_released_refuses(launch: Launch) -> None:
    launch.shell("exit 0", '[secrets.token]\nkind = "value"\n', secrets='{ token = "env:TOKEN" }')
    result = launch.run()
    assert (result.returncode, "not the secrets ['token']" in result.stderr) == (30, True)


def test_run_when_it_starts_the_program_forbids_core_dumps_and_new_privileges(launch: Launch) -> None:
    launch.shell("ulimit -Hc; grep NoNewPrivs /proc/self/status; cat /proc/sys/kernel/core_pattern")
    limit, privileges, pattern = launch.run().stdout.splitlines()
    assert limit in (
        ("1", "0") if pattern.startswith(("|", "@")) else ("0",)
    )  # the shell shows 512-byte blocks
    assert privileges.split() == ["NoNewPrivs:", "1"]


def test_run_when_nohup_ignores_a_signal_the_program_ignores_it_too(launch: Launch) -> None:
    launch.shell("kill -HUP $$; exit 6")
    process = launch.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.communicate(timeout=20)
    assert process.returncode == 6


@pytest.mark.parametrize(
    ("change", "code", "problem"),
    [
        ({"fuse": "/dev/zero"}, "[STF-1003]", "/dev/zero is not the device of FUSE"),
        ({"fuse": "/no/fuse"}, "[STF-1003]", "/no/fuse cannot be opened: No such file"),
        (
            {"volumes": {"v": "/no/such"}},
            "[STF-3000]",
            "the volume v should lie in /no/such, which is not a directory",
        ),
    ],
)
def test_check_host_when_something_is_missing_says_so_before_the_cas_is_asked(
    launch: Launch, change: dict[str, object], code: str, problem: str
) -> None:
    launch.config |= {"volumes": {"v": str(launch.directory)}, **change}
    result = launch.shell("exit 0", "[volumes.v]\n", volumes='{ v = "/v:ro" }').run()
    assert result.returncode == 30
    assert code in result.stderr
    assert problem in result.stderr
    assert launch.events == []


def test_check_host_when_not_root_says_so(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    launch.shell("exit 0")
    planned = plan(manifests.load(launch.manifest), "trainer", host_environment={})
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(EnvironmentUnfitError) as refused:
        check_host(planned)
    assert "running as user 65534, expected root" in refused.value.problem


def test_report_when_the_program_ended_has_times_of_all_steps_and_memory(launch: Launch) -> None:
    launch.shell("sleep 0.2").run()
    report = launch.report
    steps = {step["name"]: step["seconds"] for step in report["steps"]}
    assert list(steps) == [
        "load", "measure", "provision", "mount", "secrets", "start", "program", "unmount and commit",
    ]  # fmt: skip
    assert 0.2 <= steps["program"] < 5
    before = ("load", "measure", "provision", "mount", "secrets", "start")
    assert report["until_program_seconds"] == pytest.approx(sum(steps[name] for name in before), abs=0.001)
    assert 1 << 20 < report["resident_memory"]["at_start_bytes"] <= report["resident_memory"]["peak_bytes"]


def test_run_when_the_working_directory_is_in_a_volume_starts_there_and_leaves_it_unbusy(
    launch: Launch,
) -> None:
    (launch.directory / "v").mkdir()
    program = launch.directory / "v" / "program"
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    launch.config["volumes"] = {"v": str(launch.directory / "v")}
    base = launch.base
    launch.write(
        "./program", tables="[volumes.v]\n", volumes=f'{{ v = "{base}:ro" }}', working_directory=f'"{base}"'
    )
    result = launch.run()
    assert (result.returncode, result.stdout) == (0, f"{base}\n")
    assert f"unmount {base}" in launch.events


def test_run_when_a_volume_is_mounted_in_the_home_directory_the_program_finds_it(launch: Launch) -> None:
    (launch.directory / "v").mkdir()
    (launch.directory / "v" / "mnist.npz").write_text("data")
    launch.config["volumes"] = {"v": str(launch.directory / "v")}
    launch.shell(
        "cat ~/.keras/datasets/mnist.npz && echo x > ~/.keras/keras.json && stat -c %a ~ $TMPDIR",
        "[volumes.v]\n",
        volumes='{ v = "/run/securetf/home/.keras/datasets:ro" }',
    )
    result = launch.run()
    assert (result.returncode, result.stdout) == (0, "data700\n700\n"), result.stderr


@pytest.mark.parametrize(("program", "status"), [(0, 20), (7, 7)])
def test_run_when_a_volume_refused_data_the_end_says_so_and_is_never_zero(
    launch: Launch, program: int, status: int
) -> None:
    launch.config |= {"volumes": {"a": str(launch.directory)}, "integrity_errors": 3}
    launch.shell(f"exit {program}", "[volumes.a]\n", volumes=f'{{ a = "{launch.base}/a:ro" }}')
    result = launch.run()
    assert result.returncode == status
    assert "volume a: the program got 3 errors instead of data that does not authenticate" in result.stderr
    assert "chunk 7 of /file" in result.stderr
