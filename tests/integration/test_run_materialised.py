"""`securetf run` where the machine has no FUSE: volumes are copies in memory, packed when the program has ended."""

# ruff: noqa: E501  (Manifests and shell programs)

import json
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from support.cloud import PLAINTEXT, SECUR_ETF, Job, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
PROGRAM = Path(__file__).parents[1] / "support" / "memory_program.py"
WRITTEN = '[volumes.model]\nwriter = "trainer"\nexport = ["creator"]\n'
WHY = "in memory, not mounted: /dev/fuse is not the device of FUSE"


def without_fuse(available_kb: int | None = None, directory: Path | None = None) -> list[str]:
    """A mount namespace in which /dev/fuse is masked, and the machine has this much memory."""
    masks = "mount --bind /dev/null /dev/fuse"
    if available_kb is not None and directory is not None:
        said = directory / f"meminfo-{uuid.uuid4().hex}"
        said.write_text(f"MemTotal: 999999999 kB\nMemAvailable: {available_kb} kB\n")
        masks += f" && mount --bind {said} /proc/meminfo"
    return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", f'{masks} && exec "$@"', "sh"]


def run(job: Job, *options: str, before: list[str] | None = None) -> "subprocess.CompletedProcess[str]":
    process = job.start(*options, before=without_fuse() if before is None else before)
    out, err = process.communicate(timeout=90)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def writing(job: Job, script: str, extra: str = "") -> None:
    job.shell(script, workload=f'volumes = {{ model = "{job.base}:rw" }}\n{extra}', tables=WRITTEN)


def sequence(job: Job) -> int:
    states = job.cloud.client.read_session(job.name, job.cloud.owner).volumes
    return next(state.seq for state in states if state.name == "model")


def test_program_finds_and_keeps_everything_as_on_a_mount_with_one_commit_a_run(job: Job) -> None:
    command = ["/usr/bin/python3", "-S", str(PROGRAM), job.base]
    workload = f'volumes = {{ model = "{job.base}:rw" }}'
    job.create(job.text(command, workload=workload, tables=WRITTEN))
    first = run(job)
    assert (first.returncode, first.stdout) == (7, "run 0\n"), first.stderr
    assert (
        f"securetf: volume model: {WHY}; what the program changes is kept when it has ended" in first.stderr
    )
    assert job.report["in_memory"] == {"model": "/dev/fuse is not the device of FUSE"}
    commits = [sequence(job)]
    for number in (1, 2):
        result = run(job)
        assert (result.returncode, result.stdout) == (0, f"run {number}\n"), result.stderr
        commits.append(sequence(job))
    # A writer begins with a record of its epoch. The last run changed nothing, so it committed nothing.
    assert [commits[1] - commits[0], commits[2] - commits[1]] == [2, 1]
    mounted = job.run()
    assert (mounted.returncode, mounted.stdout) == (0, "run 2\n"), mounted.stderr
    assert "in memory" not in mounted.stderr
    assert "in_memory" not in job.report


def test_device_that_the_program_makes_is_kept_with_all_else_and_is_there_in_the_next_run(job: Job) -> None:
    script = f"""cd {job.base}; if [ -e white ]; then stat -c '%F %t:%T' white; cat data; exec < white; fi
        echo kept > data && mknod white c 0 0"""
    writing(job, script)
    first = run(job)
    assert first.returncode == 0, first.stderr
    second = run(job)
    assert second.stdout == "character special file 0:0\nkept\n", second.stderr
    assert "cannot open white: Permission denied" in second.stderr, "a device in a volume opens nothing"


def test_memory_file_systems_of_the_program_are_never_swapped_out(job: Job) -> None:
    kept = "grep ' - tmpfs securetf ' /proc/self/mountinfo"
    writing(job, f"{kept} | grep -c noswap; {kept} | grep -vc noswap")
    for result, least in ((run(job), 2), (job.run(), 1)):
        with_noswap, without = map(int, result.stdout.split())
        assert (with_noswap >= least, without) == (True, 0), result.stderr


def test_older_copy_of_the_volume_is_refused_and_the_program_does_not_start(job: Job) -> None:
    writing(job, f"echo run >> {job.base}/log; wc -l < {job.base}/log")
    assert run(job).stdout == "1\n"
    shutil.copytree(job.volumes, job.directory / "old")
    assert run(job).stdout == "2\n"
    shutil.rmtree(job.volumes)
    (job.directory / "old").rename(job.volumes)
    result = run(job)
    assert (result.returncode, result.stdout) == (20, "")
    assert "[STF-2011]" in result.stderr


def test_volume_that_does_not_fit_is_refused_with_both_figures_before_the_program_starts(job: Job) -> None:
    job.shell(
        f"cat {job.base}/small; wc -c < {job.base}/big",
        workload=f'volumes = {{ data = "{job.base}:ro" }}',
        tables="[volumes.data]\n",
    )
    job.pack("data", {"big": os.urandom(3_000_000), "small": PLAINTEXT})
    result = run(job, before=without_fuse(4000, job.directory))
    assert (result.returncode, result.stdout) == (30, "")
    assert "[STF-1005]: the volume data needs 30" in result.stderr
    assert "expected at most 2048000: half of what is available now" in result.stderr
    assert "give the machine more memory, or FUSE" in result.stderr
    assert not Path(job.base).exists()
    assert run(job, before=without_fuse(9000, job.directory)).stdout == f"{PLAINTEXT.decode()}3000000\n"


def test_program_that_fills_the_memory_gets_enospc_and_what_it_kept_is_packed(job: Job) -> None:
    writing(
        job,
        f"cd {job.base}; test -e kept && ls && exit; echo kept > kept; head -c 9000000 /dev/urandom > much && exit 1; "
        "rm much; echo after > after",
    )
    small = without_fuse(8000, job.directory)
    result = run(job, before=small)
    assert result.returncode == 0, result.stderr
    assert "No space left on device" in result.stderr
    assert run(job, before=small).stdout == "after\nkept\n"


def test_read_only_volume_and_mounts_inside_of_it_are_as_the_manifest_says(job: Job) -> None:
    base = job.base
    job.shell(
        f"cat {base}/train.txt; echo x > {base}/new; echo y > {base}/model/new; cat {base}/model/new; cat {base}/s/token; "
        f"ls {base} {base}/scratch; echo z > {base}/scratch/z; stat -f -c %T {base} {base}/model {base}/scratch",
        workload=f'volumes = {{ data = "{base}:ro", model = "{base}/model:rw", scratch = "{base}/scratch:rw" }}\n'
        f'secrets = {{ token = "file:{base}/s/token" }}',
        tables=f'[volumes.data]\n{WRITTEN}[volumes.scratch]\nprotection = "ephemeral"\n[secrets.token]\nkind = "value"\n',
    )
    job.cloud.client.import_secret(job.name, "token", b"the token\n", job.cloud.owner)
    job.pack("data", {"train.txt": PLAINTEXT, "model/.keep": b"", "s/.keep": b"", "scratch/.keep": b""})
    result = run(job)
    listed = f"{base}:\nmodel\ns\nscratch\ntrain.txt\n\n{base}/scratch:\n"
    assert result.stdout == f"{PLAINTEXT.decode()}y\nthe token\n{listed}tmpfs\ntmpfs\ntmpfs\n", result.stderr
    assert f"{base}/new: Read-only file system" in result.stderr
    assert result.stderr.count(WHY) == 3
    assert job.export("model", "new") == b"y\n"
    assert not (job.volumes / "scratch").exists()
    assert base not in Path("/proc/self/mounts").read_text()


def test_damaged_volume_is_refused_with_the_files_name_before_the_program_starts(job: Job) -> None:
    job.shell(
        "echo started",
        workload=f'volumes = {{ data = "{job.base}:ro" }}',
        tables="[volumes.data]\n",
    )
    job.pack("data", {"big": os.urandom(300_000)})
    segment = max((job.volumes / "data").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
    raw = bytearray(segment.read_bytes())
    raw[100_000] ^= 1
    segment.write_bytes(raw)
    result = run(job)
    assert (result.returncode, result.stdout) == (20, "")
    assert "[STF-2010]" in result.stderr
    assert "big" in result.stderr


def test_killed_launcher_loses_the_run_and_nothing_before_it(job: Job) -> None:
    ready = job.directory / "ready"
    writing(
        job,
        f"cd {job.base}; ls; test -e {ready} && exit; test -e first && {{ echo second > first; sync first; : > {ready}; sleep 60; }}; "
        "echo first > first",
    )
    assert run(job).returncode == 0
    process = job.start(before=without_fuse())
    until(lambda: ready.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert run(job).stdout == "first\n"
    assert job.export("model", "first") == b"first\n"


def test_program_that_is_ended_by_a_signal_keeps_what_it_wrote(job: Job) -> None:
    ready = job.directory / "ready"
    writing(job, f"echo written > {job.base}/checkpoint; : > {ready}; sleep 60")
    process = job.start(before=without_fuse())
    until(lambda: ready.exists() or process.poll() is not None)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143, out + err
    assert job.export("model", "checkpoint") == b"written\n"


def test_followed_volume_is_refused_for_a_copy_cannot_follow(job: Job) -> None:
    publisher = f'[workloads.publisher]\ncommand = ["/bin/true"]\nvolumes = {{ model = "{job.base}:rw" }}\n'
    job.shell(
        "echo started",
        workload=f'volumes = {{ model = "{job.base}:ro" }}',
        tables=f'[volumes.model]\nwriter = "publisher"\nfreshness = "follow"\n{publisher}',
    )
    argv = [
        *without_fuse(), *SECUR_ETF, "run", "publisher", "--manifest", str(job.manifest), "--volumes", str(job.volumes),
        "--cas", str(job.cloud.trust_file), "--insecure-simulation", str(job.cloud.platform),
    ]  # fmt: skip
    written = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert written.returncode == 0, written.stderr  # its writer follows nobody
    result = run(job)
    assert (result.returncode, result.stdout) == (30, "")
    assert (
        "[STF-1003]: the volume model follows its writer, and a copy in memory cannot be: /dev/fuse is not"
        in result.stderr
    )
    assert job.run().stdout == "started\n"


def test_strict_volume_is_refused_for_no_fsync_in_memory_waits_for_the_cas(job: Job) -> None:
    job.shell(
        "echo started",
        workload=f'volumes = {{ model = "{job.base}:rw" }}',
        tables=f'{WRITTEN}freshness = "strict"\n',
    )
    result = run(job)
    assert (result.returncode, result.stdout) == (30, "")
    assert "[STF-1003]: the volume model is strict, and a copy in memory cannot be" in result.stderr
    assert job.run().stdout == "started\n"


def test_volume_with_a_new_key_is_sealed_anew_beside_its_copy_in_memory(job: Job) -> None:
    writing(
        job, f"test -e {job.base}/old && sleep 4; head -c 3000000 /dev/zero | tr '\\0' x >> {job.base}/old"
    )
    assert run(job).returncode == 0
    cloud = job.cloud
    asked = [
        *SECUR_ETF, "volume", "rekey", str(job.volumes / "model"), "--cas", str(cloud.trust_file), "--session", job.name,
        "--volume", "model", "--key", str(cloud.key_file),
    ]  # fmt: skip
    subprocess.run(asked, check=True, capture_output=True)
    result = run(job)
    assert result.returncode == 0, result.stderr
    volumes = {"model": {"writable": True, "freshness": "group", "rekeyed": True}}
    assert (job.report["volumes"], list(job.report["in_memory"])) == (volumes, ["model"])
    new = cloud.client.export_grant(job.name, "model", cloud.owner)
    assert (new.key_version, new.older_key) == (2, None)
    assert job.export("model", "old") == b"x" * 6_000_000


def test_choice_by_name_is_followed_and_fuse_alone_is_refused_without_it(job: Job) -> None:
    writing(job, f"stat -f -c %T {job.base}; echo x >> {job.base}/x; wc -l < {job.base}/x")
    result = run(job, "--mount-by", "memory", before=[])
    assert result.stdout == "tmpfs\n1\n", result.stderr
    assert "in memory, not mounted: `--mount-by memory` was given" in result.stderr
    assert run(job, "--mount-by", "fuse", before=[]).stdout == "fuseblk\n2\n"
    refused = run(job, "--mount-by", "fuse")
    assert (refused.returncode, refused.stdout) == (30, "")
    assert "[STF-1003]: /dev/fuse is not the device of FUSE" in refused.stderr


@pytest.mark.parametrize("interceptor", ["namespace", "seccomp"])
def test_program_with_a_user_and_host_paths_of_its_own_works_in_memory(job: Job, interceptor: str) -> None:
    shown = {path: "ro" for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64") if os.path.lexists(path)}
    paths = ", ".join(f'"{path}" = "{mode}"' for path, mode in shown.items())
    writing(
        job,
        f"id -u; echo x >> {job.base}/x; stat -c %u {job.base}/x; wc -l < {job.base}/x; ls /run",
        extra=f"user_id = 4242\nhost_paths = {{ {paths} }}\n",
    )
    for number in (1, 2):
        result = run(job, "--interceptor", interceptor)
        assert result.stdout == f"4242\n4242\n{number}\nsecuretf\n", result.stderr


def test_report_without_a_volume_says_nothing_of_memory(job: Job) -> None:
    job.shell("echo ran")
    result = run(job)
    assert result.stdout == "ran\n", result.stderr
    assert "in_memory" not in json.dumps(job.report)
