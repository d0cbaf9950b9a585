"""What a user sees when input or machine are bad: exit code, error code, what was found, what to do.

Each case through the command line with real processes. Cases that other files show end to end are not here:
volumes of another version or cut off (test_volume_cli.py), volumes rolled back or altered, the CAS not
reached by `run` (test_run.py).
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from securetf.attester.insecure_simulation import SimulatedTdx
from support.cloud import SECUR_ETF, Cloud, Job

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
MANIFEST = """
[session]
name = "acme/bad-input"
[appraisal.insecure_simulation]
mr_td = ["{}"]
[workloads.trainer]
command = ["true"]
""".format("ab" * 48)


def refused(argv: list[str | Path], exit_code: int, code: str, problem: str, fix: str) -> str:
    """Run a command that must be refused in exactly this way; return what it said on stderr."""
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=60, check=False)
    check_refusal(done.returncode, done.stderr, exit_code, code, problem, fix)
    return done.stderr


def check_refusal(status: int, stderr: str, exit_code: int, code: str, problem: str, fix: str) -> None:
    lines = stderr.splitlines()
    errors = [line for line in lines if line.startswith("securetf: error ")]
    fixes = [line for line in lines if line.startswith("securetf: fix: ")]
    assert (status, len(errors), len(fixes)) == (exit_code, 1, 1), stderr
    assert errors[0].startswith(f"securetf: error [{code}]: ")
    assert re.search(problem, errors[0]), errors[0]
    assert re.search(fix, fixes[0]), fixes[0]
    assert "Traceback" not in stderr


def in_namespace(script: str, *argv: str | Path) -> list[str]:
    """The command in a mount namespace of its own, after the script."""
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh", *map(str, argv)]


@pytest.mark.parametrize(
    ("make", "code", "problem", "fix"),
    [
        (lambda _: None, "STF-1101", "No such file", "name"),
        (lambda path: path.mkdir(), "STF-1101", "directory", "name"),
        (lambda path: path.write_bytes(b"\xff\xfe" + MANIFEST.encode()), "STF-1101", "UTF-8", "UTF-8"),
        (lambda path: path.write_text(MANIFEST[:-8]), "STF-1101", "TOML", "line|correct|TOML"),
        (lambda path: path.write_text(MANIFEST.partition("command")[0]), "STF-1102", "command", "add"),
        (lambda path: path.write_text(MANIFEST + "[board]\n"), "STF-1102", "`board`", "."),
        (lambda path: path.write_text("format = 2\n" + MANIFEST), "STF-1102", "`format`", "."),
    ],
    ids=[
        "missing",
        "directory",
        "not UTF-8",
        "cut in a line",
        "cut between lines",
        "later table",
        "later key",
    ],
)
@pytest.mark.parametrize("command", ["check", "run", "create"])
def test_manifest_when_it_cannot_be_used_is_refused_by_name(
    tmp_path: Path, command: str, make: Callable[[Path], object], code: str, problem: str, fix: str
) -> None:
    path = tmp_path / "manifest.toml"
    make(path)
    argv: dict[str, list[str | Path]] = {
        "check": ["manifest", "check", path],
        "run": ["run", "trainer", "--manifest", path, "--cas", "absent.json"],
        "create": ["session", "create", path, "--cas", "absent.json", "--key", "absent.pem"],
    }
    refused([*SECUR_ETF, *argv[command]], 12, code, problem, fix)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda _: b"", "0 bytes|header"),
        (lambda raw: raw[:40], "header"),
        (lambda raw: raw[:1000], "bytes|ends"),
        (lambda raw: raw[:-1], "bytes|ends"),
        (lambda raw: raw + b"x", "bytes|trailing|after"),
        (lambda raw: b"\x03\x00" + raw[2:], "TEE type is 0x81, expected 0x0 .SGX"),
        (lambda raw: b"\x63\x00" + raw[2:], "begin no TDX quote"),
        (lambda _: b"\xff" + os.urandom(4999), "begin no TDX quote"),
    ],
    ids=["empty", "header", "middle", "end", "longer", "version-3", "version-99", "noise"],
)
def test_evidence_show_when_the_quote_is_of_another_form_is_refused(
    cloud: Cloud,
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    problem: str,
) -> None:
    path = tmp_path / "quote.bin"
    path.write_bytes(change(SimulatedTdx(cloud.platform, {}).attest(bytes(64)).raw))
    refused([*SECUR_ETF, "evidence", "show", path], 10, "STF-1201", problem, ".")


def test_evidence_show_when_the_file_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        refused([*SECUR_ETF, "evidence", "show", path], 10, "STF-1201", "cannot read", "raw quote or report")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_owner_key_when_others_may_use_it_is_refused_before_the_cas_is_asked(
    cloud: Cloud,
    tmp_path: Path,
    mode: int,
) -> None:
    key = tmp_path / "owner.pem"
    shutil.copy(cloud.key_file, key)
    key.chmod(mode)
    argv = [*SECUR_ETF, "session", "show", "acme/x", "--cas", cloud.trust_file, "--key", key]
    refused(argv, 16, "STF-1600", f"mode {mode:04o}", f"chmod 600 {key}")
    argv = [*SECUR_ETF, "session", "show", "acme/x", "--cas", cloud.trust_file, "--key", tmp_path / "absent"]
    refused(argv, 16, "STF-1600", "No such file", "securetf key new")


def cas_start(cloud: Cloud, data: Path, anchor: Path, listen: str = "127.0.0.1:0") -> list[str | Path]:
    return [
        *SECUR_ETF, "cas", "start", "--data", data, "--listen", listen,
        "--insecure-simulation", cloud.platform, "--insecure-anchor", anchor,
    ]  # fmt: skip


def test_cas_start_when_the_port_is_in_use_leaves_nothing_behind(cloud: Cloud, tmp_path: Path) -> None:
    listen = cloud.ready["url"].removeprefix("https://")
    argv = cas_start(cloud, tmp_path / "data", tmp_path / "anchor", listen)
    refused(argv, 30, "STF-1004", f"{listen} cannot be listened on: Address already in use", "another port")
    assert list(tmp_path.iterdir()) == []


BY_FUSE = ["--mount-by", "fuse"]
NULL = "mknod -m 666 /dev/null c 1 3"


@pytest.mark.parametrize(
    ("script", "options", "code", "problem", "fix"),
    [
        ("mount --bind /dev/null /dev/fuse", BY_FUSE, "STF-1003", "/dev/fuse", "modprobe fuse"),
        (
            f"mount -t tmpfs none /dev && {NULL}",
            BY_FUSE,
            "STF-1003",
            "cannot be opened: No such",
            "modprobe fuse",
        ),
        ("mount -t tmpfs none /dev", [], "STF-1002", "/dev/null is not there", "mount a devtmpfs at /dev"),
    ],
    ids=["another device", "no device", "no devices at all"],
)
def test_run_when_a_device_that_it_needs_is_missing_is_refused_and_the_program_never_starts(
    job: Job, script: str, options: list[str], code: str, problem: str, fix: str
) -> None:
    job.shell(
        f"touch {job.directory}/started",
        workload=f'volumes = {{ model = "{job.base}/m:rw" }}',
        tables='[volumes.model]\nwriter = "trainer"\n',
    )
    argv = [
        *SECUR_ETF, "run", "trainer", "--manifest", job.manifest, "--volumes", job.volumes,
        "--cas", job.cloud.trust_file, "--insecure-simulation", job.cloud.platform,
        *options,
    ]  # fmt: skip
    refused(in_namespace(script, *argv), 30, code, problem, fix)
    assert not (job.directory / "started").exists()
    assert job.run().returncode == 0  # nothing was spoilt


def test_run_when_the_volumes_disk_is_full_the_program_gets_enospc_and_what_was_synced_is_kept(
    job: Job,
) -> None:
    program = (
        "import errno, os, sys\n"
        "def write(name, size):\n"
        "    file = os.open(sys.argv[1] + '/' + name, os.O_WRONLY | os.O_CREAT)\n"
        "    try:\n"
        "        for _ in range(size): os.write(file, os.urandom(1 << 20))\n"
        "        os.fsync(file)\n"
        "        return 'written'\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
        "    finally: os.close(file)\n"
        "if os.path.exists(sys.argv[1] + '/small'):\n"
        "    print(os.path.getsize(sys.argv[1] + '/small'), write('other', 1)); raise SystemExit\n"
        "print(write('small', 1), write('large', 100))\n"
        "os.remove(sys.argv[1] + '/large')\n"
    )
    job.create(
        job.text(
            ["/usr/bin/python3", "-S", "-c", program, f"{job.base}/m"],
            workload=f'volumes = {{ model = "{job.base}/m:rw" }}',
            tables='[volumes.model]\nwriter = "trainer"\n',
        )
    )
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", job.volumes], check=True)
    try:
        first = job.run()
        assert first.stdout == "written ENOSPC\n", first.stderr
        second = job.run()
        assert (second.returncode, second.stdout) == (0, f"{1 << 20} written\n"), second.stderr
    finally:
        subprocess.run(["umount", job.volumes], check=True)


def test_volume_pack_when_the_disk_is_full_says_so_and_a_second_try_with_room_succeeds(
    job: Job,
) -> None:
    job.shell("true", workload=f'volumes = {{ data = "{job.base}:ro" }}', tables="[volumes.data]\n")
    source = job.directory / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(30 << 20))
    argv: list[str | Path] = [
        *SECUR_ETF, "volume", "pack", source, job.volumes / "data", "--cas", job.cloud.trust_file,
        "--session", job.name, "--volume", "data", "--key", job.cloud.key_file,
    ]  # fmt: skip
    script = f"mount -t tmpfs -o size=8m none {shlex.quote(str(job.volumes))}"
    said = refused(in_namespace(script, *argv), 30, "STF-1005", "no space|No space", "free|space")
    assert str(source) not in said or "large" in said
    (source / "large").write_bytes(b"small")
    shutil.rmtree(job.volumes / "data", ignore_errors=True)


def test_cas_when_its_disk_is_full_refuses_and_keeps_what_it_had(cloud: Cloud, tmp_path: Path) -> None:
    """The data directory on a tmpfs of 1 MiB: filled, asked, given room again, restarted."""
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", data], check=True)
    try:
        filler = data / "filler"
        filler.write_bytes(bytes((1 << 20) - 8192))
        argv = cas_start(cloud, data, tmp_path / "anchor")
        refused(argv, 30, "STF-1005", "no space", "free space")
        filler.unlink()
        full = Other(cloud, tmp_path)
        try:
            full.session("acme/first")
            filled = fill(filler)
            assert filled
            refused(full.argv("create", "acme/second"), 30, "STF-1005", "no space", "free space")
            filler.unlink()
            full.session("acme/third")
        finally:
            full.stop()
        full.start()
        try:
            for name, exit_code in (("acme/first", 0), ("acme/third", 0), ("acme/second", 13)):
                done = subprocess.run(full.argv("show", name), capture_output=True, text=True, check=False)
                assert done.returncode == exit_code, done.stderr
        finally:
            full.stop()
    finally:
        subprocess.run(["umount", data], check=True)


def fill(path: Path) -> int:
    """Write until the disk is full; return the bytes."""
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return stream.tell()


class Other(Cloud):
    """A CAS of the same platform with data, anchor and trust file of its own."""

    def __init__(self, like: Cloud, directory: Path, listen: str = "127.0.0.1:0") -> None:
        self.directory, self.platform, self.key_file = directory, like.platform, like.key_file
        self.owner, self.trust_file = like.owner, directory / "cas.json"
        self.start(listen)
        self.attest()

    def start(self, listen: str = "127.0.0.1:0") -> None:
        if hasattr(self, "ready"):
            listen = self.ready["url"].removeprefix("https://")
        argv = cas_start(self, self.directory / "data", self.directory / "anchor", listen)
        self.log = (self.directory / "cas.log").open("w")
        self.cas = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.cas.stdout.readline()
        assert line, (self.directory / "cas.log").read_text()
        self.ready = json.loads(line)

    def argv(self, command: str, session: str) -> list[str | Path]:
        path = self.directory / f"{session.replace('/', '-')}.toml"
        path.write_text(MANIFEST.replace("acme/bad-input", session))
        what = path if command == "create" else session
        return [*SECUR_ETF, "session", command, what, "--cas", self.trust_file, "--key", self.key_file]

    def session(self, name: str) -> None:
        subprocess.run(self.argv("create", name), check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def other(cloud: Cloud, tmp_path: Path) -> Iterator[Other]:
    one = Other(cloud, tmp_path)
    yield one
    if one.cas.poll() is None:
        one.stop()


def test_cas_when_another_one_listens_at_its_address_is_not_sent_anything(
    other: Other,
    job: Job,
    tmp_path: Path,
) -> None:
    other.session("acme/first")
    pinned = json.loads(other.trust_file.read_text())["spki_sha256"]
    other.stop()
    (tmp_path / "impostor").mkdir()
    impostor = Other(other, tmp_path / "impostor", other.ready["url"].removeprefix("https://"))
    try:
        found = impostor.ready["spki_sha256"]
        problem, fix = f"has the key {found}, pinned is {pinned}; nothing was sent", "securetf cas attest"
        refused(other.argv("show", "acme/first"), 14, "STF-1411", problem, fix)
        refused([*SECUR_ETF, "cas", "status", "--cas", other.trust_file], 14, "STF-1411", problem, fix)
        job.manifest.write_text(job.text(["true"]))
        result = job.run(cas=other.trust_file)
        check_refusal(result.returncode, result.stderr, 14, "STF-1411", problem, fix)
    finally:
        impostor.stop()
    refused(other.argv("show", "acme/first"), 14, "STF-1410", "Connection refused", "check that it runs")


def test_cas_start_when_its_data_is_an_older_copy_refuses_naming_what_is_missing(
    other: Other, tmp_path: Path
) -> None:
    other.session("acme/first")
    other.stop()
    shutil.copytree(tmp_path / "data", tmp_path / "backup")
    other.start()
    other.attest()
    other.session("acme/second")
    other.stop()
    (tmp_path / "data").rename(tmp_path / "newest")
    shutil.copytree(tmp_path / "backup", tmp_path / "data")
    argv = cas_start(other, tmp_path / "data", tmp_path / "anchor")
    refused(argv, 15, "STF-1421", r"an older copy was put back, \d+ commits are missing", "restore the copy")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "newest").rename(tmp_path / "data")
    other.start()
    other.attest()
    subprocess.run(other.argv("show", "acme/second"), check=True, stdout=subprocess.DEVNULL)


def test_trust_file_when_it_is_cut_or_of_another_version_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    text = cloud.trust_file.read_text()
    path = tmp_path / "cas.json"
    for content in (text[:100], "", text.replace('"version": 1', '"version": 2')):
        assert content != text
        path.write_text(content)
        argv = [*SECUR_ETF, "cas", "status", "--cas", path]
        refused(argv, 14, "STF-1411", "is not a trust file", "securetf cas attest")
