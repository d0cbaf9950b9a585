"""Tar streams in and out of a volume: against GNU tar and Python's tarfile, and what is refused."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

LONG = "/".join(["directory-with-a-long-name"] * 12)
BEFORE = "what the volume held before"
MEBI = 1 << 20


def securetf(
    *argv: str | Path, stdin: bytes | None = None, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "securetf", "volume", *map(str, argv)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture
def volume(tmp_path: Path) -> list[str | Path]:
    """Arguments that name a new volume with one file."""
    arguments: list[str | Path] = [tmp_path / "v", "--trust-file", tmp_path / "trust"]
    securetf("create", *arguments)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "before").write_text(BEFORE)
    securetf("pack", tmp_path / "first", *arguments)
    return arguments


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with everything that a stream can carry."""
    root = tmp_path / "source"
    (root / LONG).mkdir(parents=True)
    (root / LONG / ("n" * 200)).write_bytes(b"at the end of a long path")
    (root / "plain").write_bytes(os.urandom(300_001))
    (root / "plain").chmod(0o604)
    (root / "empty").touch()
    (root / "näme\n").write_text("a newline in the name")
    (root / "link").symlink_to(LONG)
    os.link(root / "plain", root / LONG / "again")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "plain", "user.note", b"with\nnewline=and\x00zero")
    with (root / "sparse").open("wb") as file:
        for at in (0, 3 * MEBI, 9 * MEBI):
            file.seek(at)
            file.write(os.urandom(70_000))
        file.truncate(20 * MEBI)
    for name in ("plain", "empty", "sparse", LONG):
        os.utime(root / name, ns=(1_500_000_000_000_000_000, 1_234_567_890_123_456_789))
    os.utime(root / "fifo", ns=(0, -1_500_000_000))
    return root


def facts(root: Path) -> dict[str, object]:
    """Everything about a tree that must be kept; times in nanoseconds."""
    found: dict[str, object] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        entry: list[object] = [status.st_mode, status.st_uid, status.st_gid, status.st_nlink]
        if not path.is_dir():
            entry.append(status.st_size)
        if path.is_symlink():
            entry.append(path.readlink())
        elif path.is_file():
            entry += [path.read_bytes(), {name: os.getxattr(path, name) for name in os.listxattr(path)}]
        if not path.is_symlink():
            entry.append(status.st_mtime_ns)
        found[str(path.relative_to(root))] = entry
    return found


def listed(volume: list[str | Path]) -> list[str]:
    return [entry["name"] for entry in json.loads(securetf("ls", *volume, "--json").stdout)["entries"]]


def unchanged(volume: list[str | Path]) -> bool:
    return listed(volume) == ["before"] and securetf("cat", volume[0], "before", *volume[1:]).stdout == (
        BEFORE.encode()
    )


@pytest.mark.parametrize(
    "sparse", [(), ("-S",), ("-S", "--sparse-version=0.1"), ("-S", "--sparse-version=0.0")]
)
def test_stream_of_gnu_tar_when_packed_comes_out_as_the_tree_it_was_made_of(
    tmp_path: Path, source: Path, volume: list[str | Path], sparse: tuple[str, ...]
) -> None:
    made = subprocess.run(
        ["tar", "--format=posix", "--xattrs", *sparse, "-C", source, "-cf", "-", "."],
        capture_output=True,
        check=True,
    )
    packed = json.loads(securetf("pack", "-", *volume, "--json", stdin=made.stdout).stdout)
    assert (packed["files"], packed["symlinks"], packed["hard_links"], packed["specials"]) == (5, 1, 1, 1)
    securetf("unpack", volume[0], tmp_path / "out", *volume[1:])
    assert facts(tmp_path / "out") == facts(source)


def test_stream_in_gnu_format_with_long_names_and_old_sparse_headers_is_packed(
    tmp_path: Path, source: Path, volume: list[str | Path]
) -> None:
    archive = tmp_path / "gnu.tar"
    subprocess.run(["tar", "--format=gnu", "-S", "-C", source, "-cf", archive, "."], check=True)
    securetf("pack", archive, *volume)
    securetf("unpack", volume[0], tmp_path / "out", *volume[1:])
    assert (tmp_path / "out" / LONG / ("n" * 200)).read_bytes() == b"at the end of a long path"
    assert (tmp_path / "out" / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (tmp_path / "out" / "link").readlink() == Path(LONG)
    assert (tmp_path / "out" / "fifo").lstat().st_mtime == -2  # whole seconds in this format


def test_stream_out_of_a_volume_when_unpacked_by_gnu_tar_is_the_same_tree_with_its_holes(
    tmp_path: Path, source: Path, volume: list[str | Path]
) -> None:
    made = subprocess.run(
        ["tar", "--format=posix", "--xattrs", "-S", "-C", source, "-cf", "-", "."],
        capture_output=True,
        check=True,
    )
    securetf("pack", "-", *volume, stdin=made.stdout)
    stream = securetf("unpack", volume[0], "-", *volume[1:]).stdout
    assert len(stream) < 2 * MEBI
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "--xattrs", "-xpf", "-", "-C", out], input=stream, check=True)
    assert facts(out) == facts(source)
    assert (out / "sparse").stat().st_blocks * 512 < 2 * MEBI


def test_tar_file_out_of_a_volume_when_read_by_tarfile_has_every_member(
    tmp_path: Path, source: Path, volume: list[str | Path]
) -> None:
    securetf("pack", source, *volume)
    securetf("unpack", volume[0], tmp_path / "out.tar", "--tar", *volume[1:])
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = {member.name for member in archive}
        expected = {str(path.relative_to(source)) for path in source.rglob("*")}
        assert names == {".", *expected}
        plain = archive.getmember("plain")
        content = archive.extractfile(archive.getmember(LONG + "/again"))
        assert content is not None
        assert content.read() == (source / "plain").read_bytes()
        assert (plain.mode, plain.mtime) in {(0o604, 1_234_567_890.123456789), (0o604, 1_234_567_890.1234567)}
    done = securetf("unpack", volume[0], tmp_path / "out.tar", "--tar", *volume[1:], check=False)
    assert b"File exists" in done.stderr


def archive(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            made.addfile(member, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


REFUSED: dict[str, tuple[list[tarfile.TarInfo], str]] = {
    "parent": ([member("a/../../out")], "member a/../../out has `..` in its path"),
    "absolute": ([member("/etc/out")], "member /etc/out is an absolute path"),
    "symlink out": (
        [member("d/link", tarfile.SYMTYPE, "../../out")],
        "member d/link is a symbolic link that leads out of the stream, to ../../out",
    ),
    "absolute symlink": (
        [member("link", tarfile.SYMTYPE, "/etc")],
        "member link is a symbolic link that leads out of the stream, to /etc",
    ),
    "hard link out": (
        [member("link", tarfile.LNKTYPE, "../out")],
        "member link is a hard link to ../out, which has `..` in its path",
    ),
    "hard link to nothing": (
        [member("link", tarfile.LNKTYPE, "later"), member("later")],
        "member link is a hard link to later, which no member before it has made",
    ),
    "through a link": (
        [member("d", tarfile.DIRTYPE), member("link", tarfile.SYMTYPE, "d"), member("link/x")],
        "member link/x leads through link, which is no directory",
    ),
    "device": ([member("null", tarfile.CHRTYPE)], "member null is a device, which is not packed"),
    "file over directory": (
        [member("d", tarfile.DIRTYPE), member("d")],
        "member d was a directory before, and is something else",
    ),
    "long component": ([member("n" * 300)], "the name is too long"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_member_that_leads_out_or_is_no_tree_is_refused_by_its_name_and_nothing_changes(
    volume: list[str | Path], case: str
) -> None:
    members, message = REFUSED[case]
    good = member("good")
    done = securetf("pack", "-", *volume, stdin=archive(good, *members), check=False)
    assert message in done.stderr.decode()
    assert done.returncode in {2, 21}
    assert unchanged(volume)


def cut(stream: bytes) -> bytes:
    return stream[: len(stream) // 2]


def without_end(stream: bytes) -> bytes:
    return stream[:1024]  # exactly one member: header and content


def flipped(stream: bytes) -> bytes:
    return bytes([stream[0] ^ 1]) + stream[1:]


def gzipped(stream: bytes) -> bytes:
    return subprocess.run(["gzip"], input=stream, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stream: stream[:700], "is cut: it ends within a member"),
        (without_end, "is cut: the blocks of zeros at its end are missing (after the member one)"),
        (flipped, "is no tar stream: the checksum of its first header is wrong"),
        (
            lambda stream: stream[:600] + b"\0" * 424 + b"x" * 512,
            "is damaged: the checksum of a header is wrong",
        ),
        (lambda stream: stream + stream, "goes on after its end"),
        (gzipped, "is compressed with gzip"),
        (lambda _: b"", "is no tar stream: it has less than one header"),
    ],
)
def test_stream_that_is_not_whole_is_refused_with_the_reason_and_nothing_changes(
    volume: list[str | Path], change: Callable[[bytes], bytes], message: str
) -> None:
    stream = archive(member("one"), content=b"0" * 512)
    done = securetf("pack", "-", *volume, stdin=change(stream), check=False)
    assert f"standard input {message}" in done.stderr.decode()
    assert done.returncode == 2
    assert unchanged(volume)


def test_extended_header_that_is_larger_than_any_tree_needs_is_refused_without_reading_it(
    volume: list[str | Path],
) -> None:
    header = bytearray(archive(member("x", tarfile.XHDTYPE))[:512])
    header[124:136] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    done = securetf("pack", "-", *volume, stdin=bytes(header), check=False)
    assert b"has an extended header above 1 MiB" in done.stderr
    assert unchanged(volume)


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 100])
def test_member_whose_size_is_no_files_is_refused_by_its_name(volume: list[str | Path], size: int) -> None:
    huge = member("huge")
    huge.pax_headers = {"size": str(size)}
    done = securetf("pack", "-", *volume, stdin=archive(huge, member("next")), check=False)
    assert b"member huge has a size that is not a number, or no file's" in done.stderr
    assert unchanged(volume)


def test_extended_headers_without_end_are_refused_before_they_fill_memory(volume: list[str | Path]) -> None:
    value = "x" * 1_000_000
    with_records = member("x")
    with_records.pax_headers = {"comment": value}
    headers = archive(with_records)[: 512 + (len(value) // 512 + 1) * 512]  # without the member itself
    done = securetf("pack", "-", *volume, stdin=headers * 6, check=False)
    assert b"has more than 4 MiB of extended headers for one member" in done.stderr
    assert unchanged(volume)


def test_later_member_of_the_same_name_replaces_the_earlier_one(volume: list[str | Path]) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for text in (b"first, and longer", b"second"):
            info = member("file")
            info.size = len(text)
            made.addfile(info, io.BytesIO(text))
    securetf("pack", "-", *volume, stdin=stream.getvalue())
    assert securetf("cat", volume[0], "file", *volume[1:]).stdout == b"second"


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_packing_when_killed_in_the_middle_of_a_stream_leaves_the_volume_as_it_was(
    volume: list[str | Path], ending: signal.Signals
) -> None:
    command = [sys.executable, "-m", "securetf", "volume", "pack", "-", *map(str, volume)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    stream = archive(member("one"), content=os.urandom(80 * MEBI))
    process.stdin.write(stream[: 75 * MEBI])  # above what is held in memory before segments are written
    process.stdin.flush()
    time.sleep(1.5)  # three times what the background waits between two commits
    process.send_signal(ending)
    assert process.wait(30) != 0
    process.stdin.close()
    assert unchanged(volume)


def test_file_when_printed_comes_part_by_part_up_to_the_damage(
    volume: list[str | Path],
) -> None:
    content = os.urandom(9 * MEBI + 5)
    securetf("pack", "-", *volume, stdin=archive(member("file"), content=content))
    assert securetf("cat", volume[0], "file", *volume[1:]).stdout == content
    segment = max(Path(volume[0], "data").rglob("*"), key=lambda path: path.stat().st_size)
    with segment.open("r+b") as file:
        file.seek(-100_000, os.SEEK_END)  # in the last of the parts that are printed
        file.write(b"damaged")
    done = securetf("cat", volume[0], "file", *volume[1:], check=False)
    assert done.returncode == 20
    assert b"do not authenticate" in done.stderr
    assert content.startswith(done.stdout)
    assert len(done.stdout) == 8 * MEBI
