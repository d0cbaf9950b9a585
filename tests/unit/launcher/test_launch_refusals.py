"""The launcher on the real kernel: what it refuses, what it says, and what it reports."""

import os
import signal
from pathlib import Path

import pytest

from securetf import manifest as manifests
from securetf.errors import EnvironmentUnfitError
from securetf.launcher.plan import plan
from securetf.launcher.run import check_host
from securetf.launcher.stages import MountBy
from support.launching import GIVEN, Launch, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]


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
        ({"mount_by": "fuse", "fuse": "/dev/zero"}, "[STF-1003]", "/dev/zero is not the device of FUSE"),
        (
            {"mount_by": "fuse", "fuse": "/no/fuse"},
            "[STF-1003]",
            "/no/fuse cannot be opened: No such file",
        ),
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
    launch.shell("sleep 0.3").run()
    report = launch.report
    steps = {step["name"]: step["seconds"] for step in report["steps"]}
    assert list(steps) == [
        "load", "measure", "provision", "mount", "network", "secrets", "members", "start", "program",
        "unmount and commit",
    ]  # fmt: skip
    assert 0.2 <= steps["program"] < 5
    before = ("load", "measure", "provision", "mount", "network", "secrets", "members", "start")
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


def test_run_when_reads_of_followed_states_failed_the_end_and_the_report_say_so(launch: Launch) -> None:
    launch.config |= {"volumes": {"a": str(launch.directory)}, "stale_errors": 2}
    launch.shell("exit 0", "[volumes.a]\n", volumes=f'{{ a = "{launch.base}/a:ro" }}')
    result = launch.run()
    assert result.returncode == 0, result.stderr
    assert "volume a: 2 reads of older states failed: they were overwritten, or damaged" in result.stderr
    assert launch.report["stale_errors"] == {"a": 2}
    assert launch.report["transport"] == {"a": "bind"}


@pytest.mark.parametrize(
    ("mount_by", "fuse", "why"),
    [
        ("auto", "/dev/null", None),
        ("auto", "/dev/zero", "/dev/zero is not the device of FUSE"),
        ("auto", "/no/fuse", "/no/fuse cannot be opened: No such file or directory"),
        ("memory", "/dev/null", "`--mount-by memory` was given"),
        ("fuse", "/dev/null", None),
    ],
)
def test_check_host_when_volumes_are_to_go_to_memory_tells_why(
    launch: Launch, mount_by: MountBy, fuse: str, why: str | None
) -> None:
    launch.shell("exit 0", "[volumes.v]\n", volumes='{ v = "/v:ro" }')
    planned = plan(
        manifests.load(launch.manifest), "trainer", host_environment={}, directories={"v": launch.directory}
    )
    number = os.stat("/dev/null").st_rdev
    assert check_host(planned, mount_by=mount_by, fuse=Path(fuse), device_number=number) == why


def test_run_when_a_volume_is_in_memory_says_so_and_until_when_changes_are_not_kept(launch: Launch) -> None:
    launch.config |= {"volumes": {"a": str(launch.directory), "b": str(launch.directory / "b")}}
    launch.config["in_memory"] = "there is no FUSE"
    tables = '[volumes.a]\n[volumes.b]\nwriter = "trainer"\n'
    launch.shell("exit 0", tables, volumes=f'{{ a = "{launch.base}/a:ro", b = "{launch.base}/b:rw" }}')
    result = launch.run()
    assert result.returncode == 0, result.stderr
    assert "securetf: volume a: in memory, not mounted: there is no FUSE\n" in result.stderr
    kept = "; what the program changes is kept when it has ended, not before\n"
    assert f"securetf: volume b: in memory, not mounted: there is no FUSE{kept}" in result.stderr
    assert launch.report["in_memory"] == {"a": "there is no FUSE", "b": "there is no FUSE"}
    assert "transport" not in launch.report
