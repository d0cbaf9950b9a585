"""`securetf run` with a real CAS: authenticated and ephemeral volumes, and `host_paths`."""

# ruff: noqa: E501  (Manifests and shell programs)

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.cloud import PLAINTEXT, SECUR_ETF, Job, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
SYSTEM = {path: "ro" for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64") if os.path.lexists(path)}
BIG = bytes(range(256)) * 1200  # more than four chunks


def authenticated(job: Job, script: str, files: dict[str, bytes]) -> Path:
    """A session with an authenticated volume that an owner packed; return where its plain files lie."""
    job.shell(
        script,
        workload=f'volumes = {{ data = "{job.base}:ro" }}',
        tables='[volumes.data]\nprotection = "authenticated"\n',
    )
    plain = job.volumes / "data" / "plain"
    (plain / "below").mkdir(parents=True)
    for name, content in files.items():
        (plain / name).write_bytes(content)
    packed(job)
    return plain


def packed(job: Job) -> None:
    volume, cloud = job.volumes / "data", job.cloud
    done = subprocess.run(
        [
            *SECUR_ETF, "volume", "pack", str(volume / "plain"), str(volume), "--cas", str(cloud.trust_file),
            "--session", job.name, "--volume", "data", "--key", str(cloud.key_file),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_authenticated_volume_is_packed_in_place_and_read_by_the_attested_program(job: Job) -> None:
    script = f"cat {job.base}/below/train.txt; sha256sum < {job.base}/big; : > {job.base}/new"
    plain = authenticated(job, script, {"below/train.txt": PLAINTEXT, "big": BIG})
    result = job.run()
    lines = result.stdout.splitlines()
    expected = subprocess.run(["sha256sum", plain / "big"], capture_output=True, text=True, check=True)
    assert lines == [PLAINTEXT.decode().rstrip(), f"{expected.stdout.split()[0]}  -"], result.stderr
    assert "Read-only file system" in result.stderr
    assert (plain / "below" / "train.txt").read_bytes() == PLAINTEXT
    assert sorted(path.name for path in plain.iterdir()) == ["below", "big"]


@pytest.mark.parametrize(("ending", "status"), [("", 1), ("; exit 0", 20)])
def test_flipped_byte_of_a_plain_file_is_an_error_to_the_program_and_names_the_file(
    job: Job, ending: str, status: int
) -> None:
    script = f"cat {job.base}/below/train.txt; cat {job.base}/below/big | wc -c; cat {job.base}/below/big >/dev/null{ending}"
    plain = authenticated(job, script, {"below/train.txt": PLAINTEXT, "below/big": BIG})
    flip(plain / "below" / "big", 200_000)
    result = job.run()
    assert result.returncode == status, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == PLAINTEXT.decode().rstrip()  # the other file is served
    assert int(lines[1]) <= 3 * 65536  # nothing of the fourth chunk
    assert "/below/big: Bad message" in result.stderr
    assert "[STF-2010]" in result.stderr
    assert "the last: /below/big: chunk 3: its bytes in plain/below/big are not those that were sealed" in (
        result.stderr
    )


def test_older_manifest_and_files_of_an_authenticated_volume_are_refused_as_a_rollback(job: Job) -> None:
    plain = authenticated(job, f"cat {job.base}/below/train.txt", {"below/train.txt": b"first\n"})
    shutil.copytree(job.volumes, job.directory / "old")
    (plain / "below" / "train.txt").write_bytes(b"second\n")
    packed(job)
    assert job.run().stdout == "second\n"
    shutil.rmtree(job.volumes)
    (job.directory / "old").rename(job.volumes)
    result = job.run()
    assert (result.returncode, result.stdout) == (20, "")
    assert "[STF-2011]" in result.stderr


def ephemeral(job: Job, script: str) -> Path:
    job.shell(
        script,
        workload=f'volumes = {{ scratch = "{job.base}:rw" }}',
        tables='[volumes.scratch]\nprotection = "ephemeral"\n',
    )
    return job.volumes / "scratch"


def waiting(job: Job) -> str:
    """A program that writes much, syncs it, reads it back, and waits at its first run."""
    return (
        f"ls {job.base}; for i in 1 2 3 4; do yes '{PLAINTEXT.decode().rstrip()}' | head -n 4000 >> {job.base}/notes; done; sync {job.base}/notes; "
        f"wc -l < {job.base}/notes; test -e {job.directory}/ready && exit; : > {job.directory}/ready; sleep 60"
    )


def test_ephemeral_volume_is_ciphertext_while_the_program_runs_and_nothing_after(job: Job) -> None:
    directory = ephemeral(job, waiting(job))
    process = job.start()
    until(lambda: (job.directory / "ready").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    stored = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    names = "".join(map(str, directory.rglob("*")))
    assert len(stored) > 16000 * len(PLAINTEXT)
    assert b"plaintext" not in stored
    assert b"notes" not in stored
    assert "notes" not in names
    states = job.cloud.client.read_session(job.name, job.cloud.owner).volumes
    assert [state.name for state in states] == []  # the CAS has neither key nor state of it
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "16000\n"), err
    assert list(directory.iterdir()) == []


def test_ephemeral_volume_of_a_killed_run_is_removed_by_the_next_one_which_sees_none_of_it(job: Job) -> None:
    directory = ephemeral(job, waiting(job))
    process = job.start()
    until(lambda: (job.directory / "ready").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    (left,) = directory.iterdir()
    assert b"plaintext" not in b"".join(path.read_bytes() for path in left.rglob("*") if path.is_file())
    result = job.run()
    assert (result.returncode, result.stdout) == (0, "16000\n"), result.stderr  # `ls` showed no file before
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("interceptor", ["namespace", "seccomp"])
@pytest.mark.parametrize("user", ["", "user_id = 4242\n"])
def test_program_with_host_paths_sees_nothing_else_under_the_real_shield(
    job: Job, interceptor: str, user: str
) -> None:
    base, there = job.base, job.directory
    (there / "given").mkdir()
    (there / "given" / "file").write_text("given\n")
    (there / "given" / "file").chmod(0o666)
    (there / "hidden").write_text("hidden\n")
    shown = SYSTEM | {str(there / "given"): "ro"}
    paths = ", ".join(f'"{path}" = "{mode}"' for path, mode in shown.items())
    job.shell(
        f"cat {there}/given/file {base}/data/train.txt; ls {there} /etc; grep -q trainer-0 /etc/hosts && echo named; "
        f"for at in '' /proc/1/root /proc/$PPID/root /proc/1/cwd; do cat $at/etc/shadow $at{there}/hidden; done; "
        f"for at in {there}/given/file {base}/data/train.txt /etc/hosts; do (echo new >> $at); done; /usr/bin/python3 -c "
        "'import os; os.chroot(\"/usr\")'",
        workload=f'volumes = {{ data = "{base}/data:ro" }}\nhost_paths = {{ {paths} }}\n{user}'
        'listen = { grpc = { port = 2222, from = ["trainer"] } }\nconnect = ["trainer:grpc"]\n'
        "instances = { minimum = 1, maximum = 2 }",
        tables="[volumes.data]\n",
    )
    job.pack("data", {"train.txt": PLAINTEXT})
    result = job.run("--interceptor", interceptor)
    expected = (
        f"given\n{PLAINTEXT.decode()}/etc:\nhosts\nnsswitch.conf\nresolv.conf\n\n{there}:\ngiven\nnamed\n"
    )
    assert result.stdout == expected, result.stderr
    assert result.stderr.count("/etc/shadow: No such file") == 1
    assert result.stderr.count("/root/etc/shadow: Permission denied") == 2
    assert result.stderr.count("/cwd/etc/shadow: Permission denied") == 1
    assert result.stderr.count("given/file: Read-only file system") == 1
    assert result.stderr.count("train.txt: Read-only file system") == 1
    why = "Permission denied" if user else "Read-only file system"  # its mode comes before the mount's
    assert result.stderr.count(f"/etc/hosts: {why}") == 1
    assert "PermissionError" in result.stderr  # without the capability there is no way to another root
    assert job.report["network"]["interceptor"] == interceptor
    assert (there / "given" / "file").read_text() == "given\n"


LEARNS = """
import sys
import numpy as np
import tensorflow as tf
base, logs = sys.argv[1:]
x = np.load(f"{base}/data/x.npy")
slope, rate = tf.Variable(0.0), 0.1
with tf.summary.create_file_writer(logs).as_default():
    for step in range(20):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((slope * x - 3 * x) ** 2)
        slope.assign_sub(rate * tape.gradient(loss, slope))
        tf.summary.write("loss", loss, step=step)
print(tf.train.Checkpoint(slope=slope).save(f"{base}/kept/slope"), float(slope) > 2)
"""


@pytest.mark.tensorflow
def test_tensorflow_with_host_paths_reads_and_keeps_in_volumes_and_lets_its_summaries_out(job: Job) -> None:
    import numpy as np  # noqa: PLC0415
    from tensorflow.core.util.event_pb2 import Event  # noqa: PLC0415
    from tensorflow.python.lib.io.tf_record import tf_record_iterator  # noqa: PLC0415

    logs = job.directory / "logs"
    logs.mkdir()
    python = {prefix: "ro" for prefix in (sys.prefix, sys.base_prefix) if not prefix.startswith("/usr")}
    shown = SYSTEM | python | {str(logs): "rw"}
    paths = ", ".join(f'"{path}" = "{mode}"' for path, mode in shown.items())
    command = [sys.executable, "-c", LEARNS, job.base, str(logs)]
    volumes = f'volumes = {{ data = "{job.base}/data:ro", kept = "{job.base}/kept:rw" }}'
    tables = '[volumes.data]\n[volumes.kept]\nwriter = "trainer"\nexport = ["creator"]\n'
    job.create(job.text(command, workload=f"{volumes}\nhost_paths = {{ {paths} }}", tables=tables))
    numbers = io.BytesIO()
    np.save(numbers, np.linspace(-1, 1, 100, dtype=np.float32))
    job.pack("data", {"x.npy": numbers.getvalue()})
    result = job.run()
    assert result.stdout == f"{job.base}/kept/slope-1 True\n", result.stderr
    assert job.export("kept", "checkpoint").startswith(b'model_checkpoint_path: "slope-1"')
    (file,) = logs.iterdir()  # in clear, as the owner wants it
    events = [Event.FromString(raw) for raw in tf_record_iterator(str(file))]
    assert [one.step for one in events if one.summary.value] == list(range(20))
