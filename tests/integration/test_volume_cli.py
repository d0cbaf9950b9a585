"""`securetf volume` with a local trust file: what it prints, what it refuses, and how it ends."""

import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest


def securetf(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "securetf", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree with everything that a volume keeps."""
    root = tmp_path / "source"
    (root / "below").mkdir(parents=True)
    (root / "plain").write_bytes(b"plain text that the host must not see")
    (root / "plain").chmod(0o604)
    (root / "big").write_bytes(os.urandom(300_001))
    (root / "below" / "link").symlink_to("../plain")
    (root / "empty").write_bytes(b"")
    os.link(root / "plain", root / "below" / "again")
    os.setxattr(root / "plain", "user.note", b"kept")
    os.utime(root / "plain", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "below", ns=(1, 987_654_321_000_000_000))
    return root


@pytest.fixture
def volume(tmp_path: Path) -> list[str | Path]:
    """Arguments that name a new, empty volume."""
    trust = tmp_path / "trust"
    securetf("volume", "create", tmp_path / "v", "--trust-file", trust)
    return [tmp_path / "v", "--trust-file", trust]


def test_packed_tree_comes_out_as_it_went_in(tmp_path: Path, source: Path, volume: list[str | Path]) -> None:
    packed = json.loads(securetf("volume", "pack", source, *volume, "--json").stdout)
    assert (packed["files"], packed["directories"], packed["symlinks"], packed["hard_links"]) == (3, 1, 1, 1)
    assert packed["bytes"] == 300_001 + 37
    out = tmp_path / "out"
    securetf("volume", "unpack", volume[0], out, *volume[1:])
    assert (out / "plain").read_bytes() == b"plain text that the host must not see"
    assert (out / "big").read_bytes() == (source / "big").read_bytes()
    assert (out / "empty").read_bytes() == b""
    assert os.readlink(out / "below" / "link") == "../plain"
    assert (out / "below" / "again").stat().st_ino == (out / "plain").stat().st_ino
    assert os.getxattr(out / "plain", "user.note") == b"kept"
    assert (out / "plain").stat().st_mode & 0o7777 == 0o604
    assert (out / "plain").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (out / "below").stat().st_mtime_ns == 987_654_321_000_000_000


def test_packing_again_leaves_exactly_the_new_tree(source: Path, volume: list[str | Path]) -> None:
    securetf("volume", "pack", source, *volume)
    (source / "empty").unlink()
    (source / "plain").write_bytes(b"changed")
    securetf("volume", "pack", source, *volume)
    listed = json.loads(securetf("volume", "ls", *volume, "--json").stdout)["entries"]
    assert [entry["name"] for entry in listed] == ["below", "big", "plain"]
    assert securetf("volume", "cat", volume[0], "plain", *volume[1:]).stdout == "changed"


def test_host_sees_neither_names_nor_contents(source: Path, volume: list[str | Path]) -> None:
    securetf("volume", "pack", source, *volume)
    stored = b"".join(path.read_bytes() for path in Path(volume[0]).rglob("*") if path.is_file())
    names = b" ".join(os.fsencode(path) for path in Path(volume[0]).rglob("*"))
    for secret in (b"plain text", b"user.note", b"below", b"again"):
        assert secret not in stored + names
    assert (source / "big").read_bytes()[1000:1032] not in stored


def test_ls_status_and_check_say_what_is_there(source: Path, volume: list[str | Path]) -> None:
    root = json.loads(securetf("volume", "pack", source, *volume, "--json").stdout)["root"]
    status = json.loads(securetf("volume", "status", *volume, "--json").stdout)
    assert status["root"] == root
    assert root.startswith("sha256:")
    assert "-> ../plain" in securetf("volume", "ls", volume[0], "below", *volume[1:]).stdout
    assert "files verified" in securetf("volume", "check", *volume).stdout


def test_create_that_fails_leaves_no_trust_file_and_the_next_one_may_have_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trust = tmp_path / "trust"
    refused = securetf("volume", "create", tmp_path / "file" / "v", "--trust-file", trust, check=False)
    assert refused.returncode == 2
    problem = f"the directory {tmp_path}/file/v of volume trust cannot be made: Not a directory"
    assert problem in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    securetf("volume", "create", tmp_path / "v", "--trust-file", trust)
    again = securetf("volume", "create", tmp_path / "other", "--trust-file", trust, check=False)
    assert "exists already" in again.stderr
    assert "files verified" in securetf("volume", "check", tmp_path / "v", "--trust-file", trust).stdout


def test_flipped_bit_is_named_by_check_and_ends_with_code_20(source: Path, volume: list[str | Path]) -> None:
    securetf("volume", "pack", source, *volume)
    segment = max(
        (path for path in Path(volume[0], "data").rglob("*") if path.is_file()),
        key=lambda p: p.stat().st_size,
    )
    with segment.open("r+b") as file:
        file.seek(100_000)
        byte = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte[0] ^ 1]))
    done = securetf("volume", "check", *volume, check=False)
    assert done.returncode == 20
    assert "big" in done.stdout
    assert "error [STF-2010]" in done.stderr


def test_older_copy_of_the_volume_is_refused_as_a_rollback(
    tmp_path: Path, source: Path, volume: list[str | Path]
) -> None:
    securetf("volume", "pack", source, *volume)
    subprocess.run(["cp", "-a", volume[0], tmp_path / "old"], check=True)
    (source / "plain").write_bytes(b"newer")
    securetf("volume", "pack", source, *volume)
    done = securetf("volume", "check", tmp_path / "old", *volume[1:], check=False)
    assert done.returncode == 20
    assert "error [STF-2011]" in done.stderr
    assert "the anchor stands at sequence" in done.stderr


def test_packed_fifos_and_sockets_come_out_with_their_names_links_and_modes(
    tmp_path: Path, source: Path, volume: list[str | Path]
) -> None:
    os.mkfifo(source / "fifo")
    (source / "fifo").chmod(0o620)
    os.link(source / "fifo", source / "below" / "same fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(source / "sock"))
    packed = json.loads(securetf("volume", "pack", source, *volume, "--json").stdout)
    assert (packed["specials"], packed["hard_links"]) == (2, 2)
    listed = json.loads(securetf("volume", "ls", *volume, "--json").stdout)["entries"]
    assert {entry["name"]: entry["kind"] for entry in listed}["fifo"] == "fifo"
    assert "\nu 0" in securetf("volume", "ls", *volume).stdout
    assert "files verified" in securetf("volume", "check", *volume).stdout
    out = tmp_path / "out"
    securetf("volume", "unpack", volume[0], out, *volume[1:])
    assert stat.S_ISFIFO((out / "fifo").stat().st_mode)
    assert stat.S_IMODE((out / "fifo").stat().st_mode) == 0o620
    assert (out / "below" / "same fifo").stat().st_ino == (out / "fifo").stat().st_ino
    assert stat.S_ISSOCK((out / "sock").stat().st_mode)


@pytest.mark.root
def test_device_is_refused_by_pack_before_anything_is_written(source: Path, volume: list[str | Path]) -> None:
    securetf("volume", "pack", source, *volume)
    os.mknod(source / "odd", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    done = securetf("volume", "pack", source, *volume, check=False)
    assert done.returncode == 2
    assert f"{source}/odd is a device, which is not packed" in done.stderr
    assert "plain" in securetf("volume", "ls", *volume).stdout


def test_target_that_is_not_empty_is_refused(source: Path, volume: list[str | Path]) -> None:
    done = securetf("volume", "unpack", volume[0], source, *volume[1:], check=False)
    assert done.returncode == 2
    assert f"{source} is not empty" in done.stderr


def test_volume_inside_of_its_own_source_is_refused(tmp_path: Path, volume: list[str | Path]) -> None:
    done = securetf("volume", "pack", tmp_path, *volume, check=False)
    assert done.returncode == 2
    assert "lies inside" in done.stderr


def test_path_that_is_not_in_the_volume_is_named(volume: list[str | Path]) -> None:
    done = securetf("volume", "cat", volume[0], "no/such", *volume[1:], check=False)
    assert done.returncode == 2
    assert "no/such: no such file or directory" in done.stderr


def test_neither_cas_nor_trust_file_is_refused_with_both_ways_out(volume: list[str | Path]) -> None:
    done = securetf("volume", "ls", volume[0], check=False)
    assert done.returncode == 2
    assert "needs --cas, --session, --volume and --key" in done.stderr
    assert "--trust-file for local use" in done.stderr


def test_wrong_key_is_refused_and_not_shown(tmp_path: Path, source: Path, volume: list[str | Path]) -> None:
    securetf("volume", "pack", source, *volume)
    trust = json.loads((tmp_path / "trust").read_text())
    trust["key"] = "A" * 43 + "="
    (tmp_path / "trust").write_text(json.dumps(trust))
    done = securetf("volume", "ls", *volume, check=False)
    assert done.returncode == 20
    assert trust["key"] not in done.stderr + done.stdout


def test_volume_of_a_later_format_is_refused_by_its_version(source: Path, volume: list[str | Path]) -> None:
    securetf("volume", "pack", source, *volume)
    for path in Path(volume[0]).glob("superblock-*"):
        fields = path.read_bytes()[:8] + b"\x00\x63" + path.read_bytes()[10:-8]
        path.write_bytes(fields + hashlib.sha256(fields).digest()[:8])
    done = securetf("volume", "ls", *volume, check=False)
    assert done.returncode == 21
    assert "error [STF-2001]" in done.stderr
    assert "99" in done.stderr


def test_truncated_metadata_is_refused_and_says_what_to_restore(
    source: Path, volume: list[str | Path]
) -> None:
    securetf("volume", "pack", source, *volume)
    for path in Path(volume[0], "metadata").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = securetf("volume", "ls", *volume, check=False)
    assert done.returncode == 20
    assert "error [STF-201" in done.stderr
    assert "restore" in done.stderr


def test_directory_that_is_no_volume_is_refused(
    tmp_path: Path, source: Path, volume: list[str | Path]
) -> None:
    securetf("volume", "pack", source, *volume)
    done = securetf("volume", "ls", source, *volume[1:], check=False)
    assert done.returncode in (20, 21)
    assert "error [STF-20" in done.stderr
    done = securetf("volume", "ls", tmp_path / "missing", *volume[1:], check=False)
    assert done.returncode == 2
    assert f"has no directory {tmp_path}/missing" in done.stderr


@pytest.mark.root
def test_mount_command_ends_cleanly_on_sigterm_and_keeps_what_was_written(
    tmp_path: Path, volume: list[str | Path]
) -> None:
    (tmp_path / "mnt").mkdir()
    command = [
        sys.executable,
        "-m",
        "securetf",
        "volume",
        "mount",
        volume[0],
        tmp_path / "mnt",
        *volume[1:],
        "--writable",
    ]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "is mounted at" in process.stdout.readline()
        (tmp_path / "mnt" / "file").write_text("written")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()
    assert not (tmp_path / "mnt" / "file").exists()
    assert securetf("volume", "cat", volume[0], "file", *volume[1:]).stdout == "written"


@pytest.mark.root
def test_mount_command_ends_cleanly_when_somebody_else_unmounts_and_keeps_what_was_written(
    tmp_path: Path, volume: list[str | Path]
) -> None:
    mounted = tmp_path / "mnt"
    mounted.mkdir()
    command = [sys.executable, "-m", "securetf", "volume", "mount", volume[0], mounted, *volume[1:]]
    process = subprocess.Popen([*map(str, command), "--writable"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "is mounted at" in process.stdout.readline()
        (mounted / "file").write_text("written")
        subprocess.run(["umount", mounted], check=True)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert securetf("volume", "cat", volume[0], "file", *volume[1:]).stdout == "written"


def test_authenticated_volume_keeps_its_plain_files_and_a_changed_one_is_named(
    tmp_path: Path, source: Path
) -> None:
    made = tmp_path / "v"
    trust = ("--trust-file", tmp_path / "trust")
    securetf("volume", "create", made, *trust, "--protection", "authenticated")
    elsewhere = securetf("volume", "pack", source, made, *trust, check=False)
    assert elsewhere.returncode == 2
    assert f"which is authenticated, lie in {made}/plain" in elsewhere.stderr
    assert f"copy or move {source} there" in elsewhere.stderr
    (tmp_path / "stream.tar").write_bytes(bytes(1024))
    stream = securetf("volume", "pack", tmp_path / "stream.tar", made, *trust, check=False)
    assert stream.returncode == 2
    assert "copy or move what the stream holds there" in stream.stderr
    source.rename(made / "plain")
    securetf("volume", "pack", made / "plain", made, *trust)
    assert "files verified" in securetf("volume", "check", made, *trust).stdout
    assert "plain text that" in securetf("volume", "cat", made, "plain", *trust).stdout
    (made / "plain" / "plain").write_bytes(b"plain text that the host has changed!")
    done = securetf("volume", "check", made, *trust, check=False)
    assert (done.returncode, "error [STF-2010]" in done.stderr) == (20, True)
    assert "its bytes in plain/" in done.stdout
    assert "big" not in done.stdout
    assert securetf("volume", "cat", made, "plain", *trust, check=False).returncode == 20


def test_protection_that_a_volume_does_not_have_is_refused_with_both_words(
    tmp_path: Path, source: Path, volume: list[str | Path]
) -> None:
    securetf("volume", "pack", source, *volume)
    trust = tmp_path / "trust"
    trust.write_text(trust.read_text().replace('"encrypted"', '"authenticated"'))
    done = securetf("volume", "ls", *volume, check=False)
    assert done.returncode == 21
    assert "the volume is encrypted, the grant says authenticated" in done.stderr
