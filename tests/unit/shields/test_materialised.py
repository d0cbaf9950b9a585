"""How much memory volumes may take, and when they go to memory at all."""

from collections.abc import Callable
from pathlib import Path

import pytest

from securetf.errors import EnvironmentUnfitError, FuseUnavailableError, NoSpaceError
from securetf.launcher import real
from securetf.launcher.real import FilesystemShield
from securetf.provisioning import VolumeGrant
from securetf.shields import materialised
from securetf.shields.materialised import Memory, available_bytes

MIB = 1 << 20


def machine(area: Path, available_kb: int, memberships: str) -> tuple[Path, Path]:
    proc, cgroups = area / "proc", area / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {available_kb} kB\nSwapFree: 0 kB\n")
    (proc / "self" / "cgroup").write_text(memberships)
    cgroups.mkdir()
    return proc, cgroups


def group(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)


def test_available_memory_when_no_group_limits_it_is_the_machines(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 4096, "0::/\n")
    assert available_bytes(proc, cgroups) == 4 * MIB
    (proc / "self" / "cgroup").unlink()
    assert available_bytes(proc, cgroups) == 4 * MIB


@pytest.mark.parametrize("where", ["", "outer", "outer/inner"])
def test_available_memory_when_any_group_above_limits_it_is_what_that_leaves(
    tmp_path: Path, where: str
) -> None:
    proc, cgroups = machine(tmp_path, 1 << 20, "0::/outer/inner\n")
    group(cgroups / "outer" / "inner", {"memory.max": "max\n"})
    group(
        cgroups / where,
        {
            "memory.max": f"{8 * MIB}\n",
            "memory.current": f"{3 * MIB}\n",
            "memory.stat": f"anon 1\ninactive_file {MIB}\n",
        },
    )
    assert available_bytes(proc, cgroups) == 6 * MIB


def test_available_memory_when_the_group_is_of_version_1_or_overdrawn_is_found_too(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 1 << 20, "9:cpu:/x\n4:memory:/job\n0::/\n")
    limits = {
        "memory.limit_in_bytes": f"{8 * MIB}",
        "memory.usage_in_bytes": f"{7 * MIB}",
        "memory.stat": f"cache 1\ntotal_inactive_file {2 * MIB}",
    }
    group(cgroups / "memory" / "job", limits)
    assert available_bytes(proc, cgroups) == 3 * MIB
    group(cgroups / "memory" / "job", {"memory.usage_in_bytes": f"{11 * MIB}"})
    assert available_bytes(proc, cgroups) == 0


def test_available_memory_when_the_kernel_does_not_say_is_an_error(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 1, "0::/\n")
    (proc / "meminfo").write_text("MemTotal: 9 kB\n")
    with pytest.raises(EnvironmentUnfitError, match="does not say how much memory is available"):
        available_bytes(proc, cgroups)


class NoMount:
    """A volume on a machine that has the device of FUSE, but may not mount."""

    closed = False

    def mount(self, _path: str) -> None:
        raise FuseUnavailableError("a FUSE file system cannot be mounted at /x: EPERM", "give it the right")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> NoMount:
    one = NoMount()
    monkeypatch.setattr(real.filesystem, "open_volume", lambda *_: one)
    return one


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was mounted and unmounted, with no kernel; a volume needs 3 MiB."""
    done: list[str] = []

    def note(what: str) -> Callable[..., None]:
        return lambda *given, **_: done.append(f"{what} {given[-1]}")

    for name in ("mount_tmpfs", "bind_mount", "cover_file", "unmount"):
        monkeypatch.setattr(materialised, name, note(name))
    monkeypatch.setattr(materialised, "memory_needed", lambda _: 3 * MIB)
    monkeypatch.setattr(materialised, "lay_out", lambda *_: None)
    monkeypatch.setattr(materialised, "available_bytes", lambda: 14 * MIB)
    return done


def grant(name: str = "model") -> VolumeGrant:
    return VolumeGrant(
        name=name, volume_id=bytes(16), key=bytes(32), key_version=1, epoch=1, seq=1, root=bytes(32),
        writable=False, freshness="group", mount_path="/x", chunk_size=65536,
    )  # fmt: skip


def test_shield_when_mounting_is_not_permitted_goes_to_memory_and_says_why(
    volume: NoMount, mounts: list[str], tmp_path: Path
) -> None:
    shown = FilesystemShield("auto", None).mount_volume(grant(), lambda *_: None, tmp_path, str(tmp_path))
    assert shown.in_memory() == "a FUSE file system cannot be mounted at /x: EPERM"
    shown.unmount()
    shown.close()
    assert volume.closed
    assert mounts == [f"{what} {tmp_path}" for what in ("mount_tmpfs", "cover_file", "unmount", "unmount")]


def test_shield_when_only_fuse_is_wanted_refuses_and_closes_the_volume(
    volume: NoMount, mounts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(FuseUnavailableError, match="EPERM"):
        FilesystemShield("fuse", None).mount_volume(grant(), lambda *_: None, tmp_path, str(tmp_path))
    assert (volume.closed, mounts) == (True, [])


@pytest.mark.usefixtures("mounts")
def test_memory_when_all_volumes_together_are_more_than_half_refuses_the_last(
    volume: NoMount, tmp_path: Path
) -> None:
    memory = Memory("no FUSE")
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    shown = [memory.show("a", volume, str(tmp_path / "a"), writable=True)]  # type: ignore[arg-type]
    # What is mounted beneath the first one is that directory itself here.
    shown.append(memory.show("b", volume, str(tmp_path / "b"), writable=True))  # type: ignore[arg-type]
    with pytest.raises(NoSpaceError) as refused:
        memory.show("c", volume, str(tmp_path / "c"), writable=True)  # type: ignore[arg-type]
    assert f"the volume c needs {3 * MIB} bytes of memory, expected at most {MIB}" in refused.value.problem
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["1", "2"]
