"""Volumes in a bucket of an S3 server: packed, read, mounted; and what its host may do to them."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from securetf.errors import VolumeRollbackError
from securetf.shields.buckets import bucket
from securetf.shields.filesystem import closing, open_volume
from securetf.shields.local_trust import LocalTrust
from support.object_store import BUCKET, SECRET, ObjectStore, object_store

PLACE = f"s3://{BUCKET}/team/data"
MEBI = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture
def losable(tmp_path: Path) -> Iterator[ObjectStore]:
    """A server of one test's own."""
    with object_store(tmp_path) as running:
        yield running


def securetf(
    server: ObjectStore, *argv: str | Path, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "securetf", "volume", *map(str, argv)]
    environment = server.environment(**variables)
    done = subprocess.run(command, capture_output=True, timeout=100, check=False, env=environment)
    assert not check or done.returncode == 0, done.stderr.decode()
    assert SECRET.encode() not in done.stdout + done.stderr
    assert b"Signature" not in done.stdout + done.stderr
    return done


def fill(server: ObjectStore, tmp_path: Path, place: str) -> tuple[list[str | Path], bytes]:
    """A volume in the bucket: its arguments, and the content of its file `big`."""
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    content = os.urandom(5 * MEBI + 1)
    (source / "big").write_bytes(content)
    (source / "below" / "small").write_text("a name that the bucket must not show")
    arguments: list[str | Path] = [place, "--trust-file", tmp_path / "trust"]
    securetf(server, "create", *arguments)
    securetf(server, "pack", source, *arguments)
    return arguments, content


@pytest.fixture
def filled(
    server: ObjectStore, tmp_path: Path, request: pytest.FixtureRequest
) -> tuple[list[str | Path], bytes, str]:
    prefix = f"team/{abs(hash(request.node.name))}"
    arguments, content = fill(server, tmp_path, f"s3://{BUCKET}/{prefix}")
    return arguments, content, prefix


def test_tree_when_packed_into_a_bucket_is_read_from_it_alone(
    server: ObjectStore, tmp_path: Path, filled: tuple[list[str | Path], bytes, str]
) -> None:
    arguments, content, prefix = filled
    securetf(server, "unpack", arguments[0], tmp_path / "out", *arguments[1:])
    assert (tmp_path / "out" / "big").read_bytes() == content
    assert securetf(server, "cat", arguments[0], "below/small", *arguments[1:]).stdout.startswith(b"a name")
    assert b"files verified" in securetf(server, "check", *arguments).stdout
    stored = b"".join(server.get(key) for key in server.keys(prefix))
    assert b"a name that the bucket" not in stored + " ".join(server.keys(prefix)).encode()
    assert content[:64] not in stored


def test_volume_when_packed_again_is_replaced_and_its_old_objects_are_gone(
    server: ObjectStore, tmp_path: Path, filled: tuple[list[str | Path], bytes, str]
) -> None:
    arguments, _, prefix = filled
    before = set(server.keys(f"{prefix}/data"))
    (tmp_path / "source" / "big").write_bytes(b"now small")
    securetf(server, "pack", tmp_path / "source", *arguments)
    assert securetf(server, "cat", arguments[0], "big", *arguments[1:]).stdout == b"now small"
    assert not before & set(server.keys(f"{prefix}/data"))


def largest(server: ObjectStore, prefix: str) -> str:
    return max(server.keys(f"{prefix}/data"), key=lambda key: len(server.get(key)))


def flip(server: ObjectStore, prefix: str) -> None:
    data = bytearray(server.get(largest(server, prefix)))
    data[1000] ^= 1
    server.put(largest(server, prefix), bytes(data))


def swap(server: ObjectStore, prefix: str) -> None:
    one, other = server.keys(f"{prefix}/data")[:2]
    held = server.get(one)
    server.put(one, server.get(other))
    server.put(other, held)


def lose(server: ObjectStore, prefix: str) -> None:
    server.delete(largest(server, prefix))


def truncate(server: ObjectStore, prefix: str) -> None:
    key = largest(server, prefix)
    server.put(key, server.get(key)[: MEBI + 7])


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (flip, "do not authenticate"),
        (swap, "do not authenticate|ends too early"),
        (lose, "is missing"),
        (truncate, "ends too early"),
    ],
)
def test_object_when_changed_swapped_lost_or_cut_is_noticed_and_the_reason_is_told(
    server: ObjectStore,
    filled: tuple[list[str | Path], bytes, str],
    attack: Callable[[ObjectStore, str], None],
    message: str,
) -> None:
    arguments, _, prefix = filled
    attack(server, prefix)
    done = securetf(server, "check", *arguments, check=False)
    assert done.returncode == 20
    assert any(one in done.stderr.decode() + done.stdout.decode() for one in message.split("|"))


def test_older_version_of_the_whole_bucket_is_refused_as_a_rollback(
    server: ObjectStore, tmp_path: Path, filled: tuple[list[str | Path], bytes, str]
) -> None:
    arguments, _, prefix = filled
    old = {key: server.get(key) for key in server.keys(prefix)}
    (tmp_path / "source" / "big").write_bytes(b"newer")
    securetf(server, "pack", tmp_path / "source", *arguments)
    for key in server.keys(prefix):
        server.delete(key)
    for key, data in old.items():
        server.put(key, data)
    done = securetf(server, "ls", *arguments, check=False)
    assert (done.returncode, b"error [STF-2011]" in done.stderr) == (20, True)


def test_bucket_or_access_key_that_is_not_there_is_told_from_a_damaged_volume(
    server: ObjectStore, tmp_path: Path, filled: tuple[list[str | Path], bytes, str]
) -> None:
    arguments, _, _ = filled
    done = securetf(server, "ls", "s3://another/prefix", *arguments[1:], check=False)
    assert done.returncode == 21
    assert b"there is no such bucket" in done.stderr
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    done = securetf(server, "ls", *arguments, check=False, **nothing)
    assert done.returncode == 2
    assert b"there is no access key for the bucket" in done.stderr
    for name in ("s3://", "s3://UPPER/x", "s3://bucket/../x", "s3://bucket/a?b"):
        done = securetf(server, "ls", name, *arguments[1:], check=False)
        assert (done.returncode, b"is not s3://BUCKET/PREFIX" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "command",
    [("compact",), ("accept-root",), ("repair", "new", "--new-trust-file", "new.trust")],
    ids=" ".join,
)
def test_command_for_directories_when_given_a_bucket_refuses_it_and_fences_nobody(
    server: ObjectStore,
    filled: tuple[list[str | Path], bytes, str],
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    arguments, _, _ = filled
    before = Path(arguments[2]).read_bytes()
    monkeypatch.chdir(tmp_path)
    done = securetf(server, command[0], arguments[0], *command[1:], *arguments[1:], check=False)
    assert done.returncode == 2
    assert f"{arguments[0]} is a bucket, and this command works on a directory".encode() in done.stderr
    assert Path(arguments[2]).read_bytes() == before
    assert not (tmp_path / "s3:").exists()


def test_access_key_when_only_in_the_file_of_credentials_is_used(
    server: ObjectStore, tmp_path: Path, filled: tuple[list[str | Path], bytes, str]
) -> None:
    arguments, _, _ = filled
    (tmp_path / "keys").write_text(f"[team]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n")
    variables = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "keys"),
        "AWS_PROFILE": "team",
    }
    assert b"big" in securetf(server, "ls", *arguments, **variables).stdout


def test_server_that_does_not_answer_ends_a_command_at_the_deadline_with_the_reason(
    losable: ObjectStore, tmp_path: Path
) -> None:
    arguments, _ = fill(losable, tmp_path, PLACE)
    losable.pause()
    begin = time.monotonic()
    done = securetf(losable, "ls", *arguments, check=False, SECURETF_BUCKET_DEADLINE_S="3")
    assert time.monotonic() - begin < 15
    assert (done.returncode, b"no answer in time" in done.stderr) == (21, True)
    losable.resume()
    assert securetf(losable, "ls", *arguments).returncode == 0
    losable.die()
    done = securetf(losable, "ls", *arguments, check=False, SECURETF_BUCKET_DEADLINE_S="3")
    assert (done.returncode, b"refused" in done.stderr) == (21, True)


def test_packing_when_the_server_is_lost_changes_nothing_and_can_be_done_again(
    losable: ObjectStore, tmp_path: Path
) -> None:
    arguments, content = fill(losable, tmp_path, PLACE)
    (tmp_path / "source" / "big").write_bytes(b"never seen")
    losable.pause()
    done = securetf(
        losable, "pack", tmp_path / "source", *arguments, check=False, SECURETF_BUCKET_DEADLINE_S="2"
    )
    assert done.returncode == 21
    losable.resume()
    assert securetf(losable, "cat", arguments[0], "big", *arguments[1:]).stdout == content
    securetf(losable, "pack", tmp_path / "source", *arguments)
    assert securetf(losable, "cat", arguments[0], "big", *arguments[1:]).stdout == b"never seen"


@pytest.mark.root
def test_mount_of_a_bucket_reads_and_gives_eio_without_hanging_when_the_server_is_lost(
    losable: ObjectStore, tmp_path: Path
) -> None:
    arguments, content = fill(losable, tmp_path, PLACE)
    (tmp_path / "mnt").mkdir()
    command = [sys.executable, "-m", "securetf", "volume", "mount", arguments[0], tmp_path / "mnt"]
    environment = losable.environment(SECURETF_BUCKET_DEADLINE_S="2")
    process = subprocess.Popen(
        [*map(str, command), *map(str, arguments[1:])], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        assert b"is mounted at" in process.stdout.readline()
        big = os.open(tmp_path / "mnt" / "big", os.O_RDONLY)
        assert os.pread(big, 1000, 0) == content[:1000]
        losable.pause()
        assert os.pread(big, 1000, 0) == content[:1000]
        begin = time.monotonic()
        with pytest.raises(OSError, match="Input/output") as lost:
            os.pread(big, 1000, 4 * MEBI + 500_000)
        assert lost.value.errno == errno.EIO
        assert time.monotonic() - begin < 20
        losable.resume()
        assert os.pread(big, 1000, 4 * MEBI + 500_000) == content[4 * MEBI + 500_000 :][:1000]
        os.close(big)
    finally:
        losable.resume()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        if process.stdout is not None:
            process.stdout.close()


def test_bucket_is_not_mounted_for_writing(server: ObjectStore, tmp_path: Path) -> None:
    done = securetf(server, "mount", PLACE, tmp_path, "--writable", "--trust-file", "t", check=False)
    assert done.returncode == 2
    assert b"is a bucket, which is mounted read-only" in done.stderr


def test_tar_stream_when_cut_leaves_the_volume_in_the_bucket_as_it_was(
    server: ObjectStore, tmp_path: Path, filled: tuple[list[str | Path], bytes, str]
) -> None:
    arguments, content, prefix = filled
    made = subprocess.run(
        ["tar", "-C", tmp_path / "source", "-cf", "-", "below"], capture_output=True, check=True
    )
    (tmp_path / "cut.tar").write_bytes(made.stdout[:1024])
    assert securetf(server, "pack", tmp_path / "cut.tar", *arguments, check=False).returncode == 2
    assert securetf(server, "cat", arguments[0], "big", *arguments[1:]).stdout == content
    (tmp_path / "whole.tar").write_bytes(made.stdout)
    securetf(server, "pack", tmp_path / "whole.tar", *arguments)
    entries = json.loads(securetf(server, "ls", *arguments, "--json").stdout)["entries"]
    assert [entry["name"] for entry in entries] == ["below"]
    assert prefix


def test_volume_in_a_bucket_that_is_followed_moves_to_the_newer_state_and_not_to_one_that_is_none(
    server: ObjectStore, tmp_path: Path, filled: tuple[list[str | Path], bytes, str]
) -> None:
    arguments, content, _ = filled
    place, trust = bucket(str(arguments[0]), server.environment()), LocalTrust(Path(arguments[2]))
    grant = msgspec.structs.replace(trust.grant(writable=False, name="followed"), freshness="follow")
    with closing(open_volume(place, grant, None)) as first:
        assert first.cat("big") == content
        (tmp_path / "source" / "big").write_bytes(b"newer")
        securetf(server, "pack", tmp_path / "source", *arguments)
        newest = trust.grant(writable=False, name="followed")
        with closing(first.at(newest.epoch, newest.seq, newest.root)) as newer:
            assert newer.cat("big") == b"newer"
        with pytest.raises(VolumeRollbackError):
            first.at(newest.epoch, newest.seq + 1, newest.root)
        assert first.cat("big") == content  # out of the cache: the objects are gone


def test_create_where_something_else_lies_is_refused_and_pack_beside_others_leaves_them_alone(
    server: ObjectStore, tmp_path: Path, filled: tuple[list[str | Path], bytes, str]
) -> None:
    arguments, _, prefix = filled
    server.put(f"{prefix}-other/notes.txt", b"mine")
    place = f"s3://{BUCKET}/{prefix}-other"
    done = securetf(server, "create", place, "--trust-file", tmp_path / "other", check=False)
    assert done.returncode == 21
    assert b"holds something else, such as notes.txt" in done.stderr
    others = [f"{prefix}/data/train/cat.png", f"{prefix}/metadata/notes.txt", f"{prefix}/readme"]
    for key in others:
        server.put(key, b"mine")
    securetf(server, "pack", tmp_path / "source", *arguments)
    assert [server.get(key) for key in others] == [b"mine"] * 3


def test_authenticated_volume_is_refused_in_a_bucket_before_anything_is_made(
    server: ObjectStore, tmp_path: Path
) -> None:
    arguments = ["create", PLACE + "/plain", "--trust-file", tmp_path / "trust"]
    done = securetf(server, *arguments, "--protection", "authenticated", check=False)
    assert done.returncode == 2
    assert b"is a bucket, in which a volume that is authenticated cannot lie" in done.stderr
    assert not (tmp_path / "trust").exists()
    assert server.keys("team/data/plain") == []
