"""`host_paths` on the real kernel: what the program sees of its machine's files, and what is refused."""

# ruff: noqa: E501  (shell programs and expected messages)

import os
from pathlib import Path

import pytest

from support.launching import Launch, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
SYSTEM = {path: "ro" for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64") if os.path.lexists(path)}
OURS = {"dev", "etc", "proc", "run"}


def only(launch: Launch, **modes: str) -> str:
    """The key's value: programs and libraries, and these names of the test's directory."""
    shown = SYSTEM | {str(launch.directory / name): mode for name, mode in modes.items()}
    return "{ " + ", ".join(f'"{path}" = "{mode}"' for path, mode in shown.items()) + " }"


@pytest.fixture
def machine(launch: Launch) -> Launch:
    """A machine with a file that is to be seen, a directory to write, and what is not to be seen."""
    for name in ("given", "out", "hidden"):
        (launch.directory / name).mkdir()
    (launch.directory / "given" / "file").write_text("seen\n")
    (launch.directory / "hidden" / "file").write_text("not seen\n")
    return launch


def test_program_with_host_paths_sees_those_and_its_own_alone(machine: Launch) -> None:
    there = machine.directory
    script = f"ls -A /; echo; ls -A /etc; echo; ls -A {there}; echo; cat {there}/given/file {there}/hidden/file /etc/shadow"
    result = machine.shell(script, host_paths=only(machine, given="ro")).run()
    root, etc, own, read = result.stdout.split("\n\n")
    assert set(root.split()) == OURS | {path[1:] for path in SYSTEM} | {there.parts[1]}
    assert etc.split() == ["hosts", "nsswitch.conf", "resolv.conf"]
    assert own.split() == ["given"]
    assert read == "seen\n"
    assert f"{there}/hidden/file: No such file" in result.stderr
    assert "/etc/shadow: No such file" in result.stderr


def test_program_without_host_paths_sees_the_whole_machine(machine: Launch) -> None:
    there = machine.directory
    result = machine.shell(f"cat {there}/hidden/file; test -s /etc/shadow && ls -A /").run()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("not seen\n")
    assert set(os.listdir("/")) <= set(result.stdout.split()) | {Path(machine.base).name}


def test_program_writes_where_a_host_path_is_rw_and_nowhere_else(machine: Launch) -> None:
    there = machine.directory
    script = (
        f"echo new > {there}/out/file; echo new > {there}/given/file; rm {there}/given/file; : > /usr/new"
    )
    result = machine.shell(script, host_paths=only(machine, given="ro", out="rw")).run()
    assert (there / "out" / "file").read_text() == "new\n"
    assert (there / "given" / "file").read_text() == "seen\n"
    assert not Path("/usr/new").exists()
    assert result.stderr.count("Read-only file system") == 3


def test_program_of_another_user_cannot_write_the_root_and_has_its_devices(machine: Launch) -> None:
    script = "touch /new; echo gone > /dev/null; head -c 3 /dev/zero | wc -c; echo shm > /dev/shm/file; cat /dev/shm/file; readlink /dev/stderr"
    result = machine.shell(script, host_paths=only(machine), user_id="4242").run()
    assert (result.returncode, result.stdout) == (0, "3\nshm\n/proc/self/fd/2\n"), result.stderr
    assert "'/new': Permission denied" in result.stderr


def test_mounts_of_the_manifest_are_in_the_root_and_nothing_is_left_after_it(machine: Launch) -> None:
    there, base = machine.directory, machine.base
    machine.config["volumes"] = {
        "v": str(there / "volume"),
        "inner": str(there / "inner"),
        "e": str(there / "e"),
    }
    result = machine.shell(
        f"echo kept > {base}/file; echo kept > {there}/out/inner/file; echo scratch > {base}-e/file; cat {base}-e/file; ls {there}/out /run",
        '[volumes.v]\nwriter = "trainer"\n[volumes.inner]\nwriter = "trainer"\n[volumes.e]\nprotection = "ephemeral"\n',
        volumes=f'{{ v = "{base}:rw", inner = "{there}/out/inner:rw", e = "{base}-e:rw" }}',
        host_paths=only(machine, out="rw"),
    ).run()  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"scratch\n/run:\nsecuretf\n\n{there}/out:\ninner\n"
    assert (there / "volume" / "file").read_text() == "kept\n"
    assert (there / "inner" / "file").read_text() == "kept\n"
    assert os.listdir(there / "e") == []
    assert os.listdir(there / "out") == []
    assert "securetf-root" not in Path("/proc/self/mounts").read_text()
    until(lambda: not any(map(os.path.exists, (base, f"{base}-e", "/run/securetf-root"))))


def refused(launch: Launch, problem: str) -> None:
    result = launch.run()
    assert (result.returncode, result.stderr.startswith("[STF-3000]")) == (30, True), result.stderr
    assert problem in result.stderr
    assert not (launch.directory / "out" / "started").exists()
    until(lambda: not os.path.exists("/run/securetf-root"))


def test_host_path_that_is_not_there_is_refused_with_its_name(machine: Launch) -> None:
    there = machine.directory
    machine.shell(f": > {there}/out/started", host_paths=only(machine, out="rw", absent="ro"))
    refused(machine, f"the host path {there}/absent cannot be shown: absent: No such file or directory")


def test_host_path_through_a_symbolic_link_is_refused_and_a_link_itself_is_shown_as_one(
    machine: Launch,
) -> None:
    there = machine.directory
    (there / "link").symlink_to(there / "hidden")
    shown = only(machine, given="ro", link="ro")
    result = machine.shell(f"readlink {there}/link; cat {there}/link/file", host_paths=shown).run()
    assert result.stdout == f"{there}/hidden\n"
    assert f"{there}/link/file: No such file" in result.stderr
    machine.shell(f": > {there}/out/started", host_paths=only(machine, out="rw", **{"link/file": "ro"}))
    refused(
        machine, f"the host path {there}/link/file cannot be shown: file: it lies beneath a symbolic link"
    )


def test_mount_beneath_a_link_that_is_shown_is_refused_for_it_would_leave_the_root(machine: Launch) -> None:
    there = machine.directory
    (there / "link").symlink_to(there / "hidden")
    machine.config["volumes"] = {"v": str(there / "volume")}
    machine.shell(
        f": > {there}/out/started",
        '[volumes.v]\nwriter = "trainer"\n',
        volumes=f'{{ v = "{there}/link/v:rw" }}',
        host_paths=only(machine, out="rw", link="ro"),
    )
    refused(machine, "link/v cannot be shown in the program's root: it leads through a symbolic link")
    assert os.listdir(there / "hidden") == ["file"]


def test_device_that_is_shown_read_only_is_refused_for_it_could_not_be_opened(machine: Launch) -> None:
    shown = only(machine, out="rw").replace("{ ", '{ "/dev/null" = "ro", ')
    machine.shell(f": > {machine.directory}/out/started", host_paths=shown)
    refused(machine, "the host path /dev/null is a device, which cannot be opened where it is read-only")
