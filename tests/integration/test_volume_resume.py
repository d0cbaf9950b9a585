"""`securetf volume unpack` after an interruption: it goes on, believes nothing it finds, ends alike."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

MEBI = 1 << 20
MARKER = ".securetf-unpack"
FILES, LARGE = 40, 96


def command(*argv: str | Path) -> list[str]:
    return [sys.executable, "-m", "securetf", "volume", *map(str, argv)]


def securetf(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*argv), capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that takes a while: files, one of them large, and everything else that a volume keeps."""
    root = tmp_path_factory.mktemp("source") / "tree"
    (root / "below" / "closed").mkdir(parents=True)
    for number in range(FILES):
        (root / f"file{number:02}").write_bytes(os.urandom(MEBI + number))
    (root / "below" / "large").write_bytes(os.urandom(LARGE * MEBI))
    (root / "below" / "closed" / "read-only").write_bytes(b"of little")
    (root / "below" / "closed" / "read-only").chmod(0o400)
    (root / "below" / "link").symlink_to("../file00")
    os.link(root / "file01", root / "below" / "again")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "file02", "user.note", b"kept")
    os.utime(root / "file03", ns=(1, 1_234_567_890_123_456_789))
    (root / "below" / "closed").chmod(0o500)
    return root


@pytest.fixture(scope="module")
def volume(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    base = tmp_path_factory.mktemp("volume")
    arguments: list[str | Path] = [base / "v", "--trust-file", base / "trust"]
    securetf("create", *arguments)
    securetf("pack", source, *arguments)
    return arguments


def everything(root: Path) -> dict[str, tuple[object, ...]]:
    """Each path below the root and itself: kind, mode, owner, links, time, attributes, content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name) for name in names if name.startswith("user.")}
        found[str(path.relative_to(root))] = (
            status.st_mode, status.st_uid, status.st_gid, links, status.st_mtime_ns, attributes, content,
        )  # fmt: skip
    return found


def written(target: Path) -> int:
    total = 0
    for directory, _, names in os.walk(target):
        for name in names:
            try:
                total += os.lstat(Path(directory, name)).st_size
            except FileNotFoundError:
                continue
    return total


def interrupt(volume: list[str | Path], target: Path, after: int) -> None:
    """Kill an unpack once it has written so many bytes; one that was quicker is begun anew."""
    for _ in range(20):
        process = subprocess.Popen(
            command("unpack", volume[0], target, *volume[1:]), stdout=subprocess.DEVNULL
        )
        while process.poll() is None and written(target) < after:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (target / MARKER).exists():
            return
        subprocess.run(["rm", "-rf", target], check=True)
    pytest.fail("the unpack always ended before it could be killed")


def unpack(volume: list[str | Path], target: Path) -> dict[str, int]:
    return json.loads(securetf("unpack", volume[0], target, *volume[1:], "--json").stdout)


@pytest.mark.parametrize("after", [1, 3 * MEBI, 30 * MEBI, 70 * MEBI])
def test_unpack_when_killed_goes_on_and_ends_with_the_same_tree(
    source: Path, volume: list[str | Path], tmp_path: Path, after: int
) -> None:
    out = tmp_path / "out"
    interrupt(volume, out, after)
    before = written(out)
    said = unpack(volume, out)
    assert everything(out) == everything(source)
    assert (said["files"], said["hard_links"], said["symlinks"], said["specials"]) == (FILES + 2, 1, 1, 1)
    whole = sum((source / f"file{number:02}").stat().st_size for number in range(FILES)) + LARGE * MEBI + 9
    assert whole - before - 4 * MEBI <= said["bytes"] <= whole  # what was there was not written again
    assert securetf("unpack", volume[0], out, *volume[1:], check=False).returncode == 2  # it is done


def test_unpack_when_killed_again_and_again_gets_to_its_end(
    source: Path, volume: list[str | Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for after in (2, 8, 20, 50):
        interrupt(volume, out, after * MEBI)
    assert unpack(volume, out)["kept"] > 0
    assert everything(out) == everything(source)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def flip(path: Path) -> None:
    """One byte, with size and time as before."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("damage", [shorten, lengthen, flip])
def test_file_that_is_half_written_or_otherwise_wrong_never_counts_as_done(
    source: Path, volume: list[str | Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    interrupt(volume, out, 30 * MEBI)
    done = [path for path in out.glob("file*") if path.stat().st_size > MEBI]
    assert done
    for path in done:
        damage(path)
    unpack(volume, out)
    assert everything(out) == everything(source)


def add(out: Path) -> Path:
    (out / "stranger").write_text("not of the volume")
    return out / "stranger"


def lead_out(out: Path) -> Path:
    victim = out.parent / "victim"
    victim.write_text("untouched")
    (out / "file00").unlink(missing_ok=True)
    (out / "file00").symlink_to(victim)
    return out / "file00"


def link_out(out: Path) -> Path:
    victim = out.parent / "victim"
    victim.write_text("untouched")
    (out / "file00").unlink(missing_ok=True)
    os.link(victim, out / "file00")
    return out / "file00"


def other_directory(out: Path) -> Path:
    victim = out.parent / "victim"
    subprocess.run(["rm", "-rf", out / "below"], check=True)
    (out.parent / "elsewhere").mkdir()
    victim.write_text("untouched")
    (out / "below").symlink_to(out.parent / "elsewhere")
    return out / "below"


@pytest.mark.parametrize("plant", [add, lead_out, link_out, other_directory])
def test_what_an_interrupted_unpack_never_leaves_is_refused_by_name_and_nothing_is_written_through_it(
    volume: list[str | Path], tmp_path: Path, plant: Callable[[Path], Path]
) -> None:
    out = tmp_path / "out"
    interrupt(volume, out, 3 * MEBI)
    planted = plant(out)
    done = securetf("unpack", volume[0], out, *volume[1:], check=False)
    assert done.returncode == 2
    assert f"{planted} is not what an interrupted unpack of this state leaves there" in done.stderr
    assert "remove it, or unpack into a new directory" in done.stderr
    if (tmp_path / "victim").exists():
        assert (tmp_path / "victim").read_text() == "untouched"
    if (tmp_path / "elsewhere").exists():
        assert list((tmp_path / "elsewhere").iterdir()) == []


def test_unpack_of_another_state_into_what_was_interrupted_is_refused(
    volume: list[str | Path], tmp_path: Path
) -> None:
    out, other = tmp_path / "out", [tmp_path / "o", "--trust-file", tmp_path / "trust"]
    interrupt(volume, out, 3 * MEBI)
    securetf("create", *other)
    before = everything(out)
    done = securetf("unpack", other[0], out, *other[1:], check=False)
    assert done.returncode == 2
    assert f"{out} holds a part of another state than this one: securetf volume unpack" in done.stderr
    assert everything(out) == before


def test_marker_that_is_half_written_is_begun_anew_but_only_where_nothing_else_lies(
    source: Path, volume: list[str | Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / MARKER).write_text("securetf vol")
    (out / "other").write_text("mine")
    assert securetf("unpack", volume[0], out, *volume[1:], check=False).returncode == 2
    assert (out / "other").read_text() == "mine"
    (out / "other").unlink()
    unpack(volume, out)
    assert everything(out) == everything(source)


def test_second_unpack_into_the_same_directory_at_the_same_time_is_refused(
    volume: list[str | Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    done = securetf("unpack", volume[0], out, *volume[1:], check=False)
    os.close(held)
    assert done.returncode == 2
    assert f"another process unpacks into {out}" in done.stderr
    assert list(out.iterdir()) == []


def test_unfinished_unpack_is_not_packed_as_if_it_were_whole(
    volume: list[str | Path], tmp_path: Path
) -> None:
    out, other = tmp_path / "out", [tmp_path / "o", "--trust-file", tmp_path / "trust"]
    interrupt(volume, out, 3 * MEBI)
    securetf("create", *other)
    done = securetf("pack", out, *other, check=False)
    assert done.returncode == 2
    assert f"{out} is an unpack that was not finished" in done.stderr


@pytest.mark.root
def test_unpack_without_the_right_to_override_modes_goes_on_below_what_was_finished(
    volume: list[str | Path], source: Path, tmp_path: Path
) -> None:
    """A directory and files that not even their owner may read or write, as the volume's modes may say."""
    out, without = tmp_path / "out", "-dac_override,-dac_read_search"
    plain = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]

    def run() -> subprocess.CompletedProcess[str]:
        argv = [*plain, *command("unpack", volume[0], out, *volume[1:])]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    (out / MARKER).write_text(f"securetf volume unpack: unfinished, of the state {done.stdout.split()[-1]}\n")
    os.truncate(out / "file00", 5)
    for closed in ("file01", "below/closed/read-only", "below/closed"):
        (out / closed).chmod(0)
    done = run()
    assert done.returncode == 0, done.stderr
    assert everything(out) == everything(source)
