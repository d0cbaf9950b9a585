"""The past of a volume and its care, by the command line: log, --at, diff, compact, repair, drill."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from securetf.shields import drill, filesystem
from securetf.shields.filesystem import closing, open_volume
from securetf.shields.local_trust import LocalTrust


def securetf(*argv: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "securetf", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done


def facts(*argv: str | Path, code: int = 0) -> Any:
    return json.loads(securetf(*argv, "--json", code=code).stdout)


class Scene:
    """A volume that was packed three times: `roots` of the three states."""

    def __init__(self, area: Path) -> None:
        self.area, self.source = area, area / "source"
        self.directory, self.trust = area / "v", area / "trust"
        self.source.mkdir()
        self.where: list[str | Path] = [self.directory, "--trust-file", self.trust]
        LocalTrust.create(self.trust)
        (self.source / "kept").write_text("kept")
        (self.source / "big").write_bytes(os.urandom(700_000))
        (self.source / "gone").write_text("first")
        self.roots = [self.pack()]
        (self.source / "gone").unlink()
        (self.source / "kept").chmod(0o600)
        self.roots.append(self.pack())
        (self.source / "new").write_text("third")
        (self.source / "big").write_bytes(os.urandom(700_000))
        self.roots.append(self.pack())

    def pack(self, *, update: bool = False) -> str:
        trust = LocalTrust(self.trust)
        with closing(open_volume(self.directory, trust.grant(writable=True), trust.advance)) as volume:
            volume.pack(str(self.source), update=update)
            return f"sha256:{volume.status().root.hex()}"

    def digest(self) -> str:
        """Return one digest of all that lies in the directory and in the trust file."""
        whole = hashlib.sha256(self.trust.read_bytes())
        for path in sorted(self.directory.rglob("*")):
            whole.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
        return whole.hexdigest()

    def segment(self) -> Path:
        segments = [path for path in (self.directory / "data").rglob("*") if path.is_file()]
        return max(segments, key=lambda path: path.stat().st_size)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_log_when_a_volume_was_written_thrice_has_each_root_with_its_time(scene: Scene) -> None:
    commits = facts("volume", "log", *scene.where)["commits"]
    assert [root for root in scene.roots if root not in [one["root"] for one in commits]] == []
    assert commits[-1]["root"] == scene.roots[-1]
    assert [one["sequence"] for one in commits] == sorted(one["sequence"] for one in commits)
    assert all(one["time"].startswith("20") and one["time"].endswith("Z") for one in commits)
    assert sum(one["mount"] for one in commits) == 3
    text = securetf("volume", "log", *scene.where).stdout
    assert scene.roots[0].removeprefix("sha256:")[:16] in text


def test_reading_at_an_earlier_root_shows_what_was_there_then(scene: Scene) -> None:
    earlier = ["--at", scene.roots[0]]
    assert securetf("volume", "cat", scene.directory, "gone", *scene.where[1:], *earlier).stdout == "first"
    listed = facts("volume", "ls", *scene.where, *earlier)["entries"]
    assert [entry["name"] for entry in listed] == ["big", "gone", "kept"]
    status = facts("volume", "status", *scene.where, *earlier)
    assert status["root"] == scene.roots[0]
    short = scene.roots[0].removeprefix("sha256:")[:8]
    assert facts("volume", "status", *scene.where, "--at", short)["root"] == scene.roots[0]


def test_contents_that_are_not_held_any_more_are_said_to_be_so(scene: Scene) -> None:
    argv = ["volume", "cat", scene.directory, "big", *scene.where[1:], "--at", scene.roots[0]]
    done = securetf(*argv, code=20)
    assert "older" not in done.stdout
    assert "is used again" in done.stderr
    assert "names the files that are not held any more" in done.stderr


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        ("0" * 64, "no held root begins with 0000"),
        ("abc", "is not a root: 8 to 64 hexadecimal digits"),
        ("not-a-root", "is not a root"),
    ],
)
def test_root_that_is_not_held_is_refused(scene: Scene, root: str, problem: str) -> None:
    done = securetf("volume", "ls", *scene.where, "--at", root, code=2)
    assert problem in done.stderr
    assert "`securetf volume log` lists" in done.stderr


def test_earlier_root_is_never_mounted_for_writing(scene: Scene, tmp_path: Path) -> None:
    argv = ["volume", "mount", scene.directory, tmp_path, *scene.where[1:], "--writable", "--at", "0" * 8]
    assert "cannot be written" in securetf(*argv, code=2).stderr


def test_diff_names_what_came_went_and_changed(scene: Scene) -> None:
    text = securetf("volume", "diff", scene.directory, scene.roots[0], scene.roots[1], *scene.where[1:])
    assert text.stdout.splitlines() == ["? big", "- gone", "a kept"]
    later = facts("volume", "diff", scene.directory, scene.roots[1], *scene.where[1:])["changes"]
    kinds = {change["path"]: change["kind"] for change in later}
    assert kinds == {"big": "unreadable", "new": "added"}
    same = facts("volume", "diff", scene.directory, scene.roots[2], *scene.where[1:])
    assert same == {"old": scene.roots[2], "new": scene.roots[2], "changes": []}


def test_status_counts_what_lies_in_the_directory(scene: Scene) -> None:
    status = facts("volume", "status", *scene.where)
    stored = sum(path.stat().st_size for path in scene.directory.rglob("*") if path.is_file())
    assert status["stored_bytes"] == stored
    assert status["roots_held"] == len(facts("volume", "log", *scene.where)["commits"])
    assert status["oldest_held"] == 1


def test_compact_makes_the_directory_smaller_and_keeps_the_files(scene: Scene) -> None:
    for number in range(40):
        (scene.source / f"part{number}").write_bytes(os.urandom(70_000))
    scene.pack()
    for number in range(0, 40, 2):
        (scene.source / f"part{number}").unlink()
    scene.pack(update=True)
    before = facts("volume", "status", *scene.where)
    assert before["dead_bytes"] > 0
    done = facts("volume", "compact", *scene.where)
    assert done["dead_bytes"] < done["dead_bytes_before"] == before["dead_bytes"]
    assert done["stored_bytes"] < done["stored_bytes_before"]
    securetf("volume", "unpack", scene.directory, scene.area / "out", *scene.where[1:])
    assert subprocess.run(["diff", "-r", scene.source, scene.area / "out"], check=False).returncode == 0


def test_repair_copies_what_can_be_read_and_lists_what_is_lost(scene: Scene) -> None:
    raw = bytearray(scene.segment().read_bytes())
    raw[:65536] = bytes(65536)
    scene.segment().write_bytes(raw)
    before = scene.digest()
    argv = ["volume", "repair", scene.directory, scene.area / "new", *scene.where[1:]]
    trust = scene.area / "new-trust"
    done = securetf(*argv, "--new-trust-file", trust, "--json", code=20)
    found = json.loads(done.stdout)
    assert [one["path"] for one in found["lost"]] == ["/big"]
    assert found["older_state"] is None
    assert "1 files could not be read" in done.stderr
    fresh = [scene.area / "new", "--trust-file", trust]
    listed = facts("volume", "ls", *fresh)["entries"]
    assert [entry["name"] for entry in listed] == ["kept", "new"]
    assert securetf("volume", "cat", fresh[0], "new", *fresh[1:]).stdout == "third"
    assert scene.digest() == before


def test_repair_of_a_copy_without_its_newest_record_says_that_it_is_older(scene: Scene) -> None:
    end = facts("volume", "status", *scene.where)["sequence"]
    drill.set_back(scene.directory, end - 1)
    argv = ["volume", "repair", scene.directory, scene.area / "new", *scene.where[1:]]
    done = securetf(*argv, "--new-trust-file", scene.area / "new-trust", code=20)
    assert "only an older state could be opened: the anchor stands at sequence" in done.stderr
    assert f"as of sequence {end - 1}" in done.stdout


def test_repair_of_a_whole_volume_ends_well_and_needs_a_new_directory(scene: Scene) -> None:
    trust = ["--new-trust-file", scene.area / "new-trust"]
    argv = ["volume", "repair", scene.directory, scene.area / "new", *scene.where[1:], *trust]
    assert facts(*argv)["lost"] == []
    securetf("volume", "unpack", scene.area / "new", scene.area / "out", "--trust-file", trust[1])
    assert subprocess.run(["diff", "-r", scene.source, scene.area / "out"], check=False).returncode == 0
    assert "is not empty" in securetf(*argv, code=2).stderr


def test_drill_when_the_shield_works_reports_each_refusal_and_changes_nothing(scene: Scene) -> None:
    before = scene.digest()
    found = facts("drill", "rollback", *scene.where)
    assert found["noticed"] is True
    assert len(found["trials"]) == 3
    for trial in found["trials"]:
        expected = f"the anchor stands at sequence {found['anchored']}, the store reaches only"
        assert trial["refusal"].startswith(expected)
    assert scene.digest() == before
    text = securetf("drill", "rollback", *scene.where).stdout
    assert "untouched copy: opens" in text
    assert "refused [STF-2011]" in text
    assert text.endswith("the shield noticed each of them\n")


def test_drill_when_a_set_back_copy_opens_says_so(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(drill, "set_back", lambda *_: None)  # a shield that accepts everything
    grant = LocalTrust(scene.trust).grant(writable=False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert [trial.refusal for trial in drill.rollback(scene.directory, grant, scratch)] == [None] * 3


def test_drill_of_what_is_no_volume_is_refused(scene: Scene) -> None:
    argv = ["drill", "rollback", scene.source, *scene.where[1:]]
    assert "is not the directory of a volume" in securetf(*argv, code=2).stderr


def test_volume_that_is_already_damaged_is_no_success_of_the_drill(scene: Scene) -> None:
    end = facts("volume", "status", *scene.where)["sequence"]
    drill.set_back(scene.directory, end - 1)
    done = securetf("drill", "rollback", *scene.where, code=20)
    assert "error [STF-2011]" in done.stderr
    assert done.stdout == ""


def test_values_of_the_native_module_show_what_they_are(scene: Scene) -> None:
    trust = LocalTrust(scene.trust)
    with closing(open_volume(scene.directory, trust.grant(writable=True), trust.advance)) as volume:
        assert repr(volume.log()[0]).startswith("Commit(seq=1")
        assert repr(volume.compact()).startswith("Compacted(")
        assert isinstance(volume.log()[0], filesystem.Commit)


def test_packing_again_with_update_copies_only_what_changed_and_ends_equal(scene: Scene) -> None:
    (scene.source / "below").mkdir()
    (scene.source / "below" / "fresh").write_text("fresh")
    os.setxattr(scene.source / "below", "user.label", b"old")
    (scene.source / "kept").chmod(0o640)
    (scene.source / "new").write_text("forth")  # the same size, another time
    (scene.source / "link").symlink_to("kept")
    done = facts("volume", "pack", scene.source, *scene.where, "--update")
    assert (done["files"], done["kept"], done["bytes"]) == (4, 2, 10)
    out = scene.area / "out"
    securetf("volume", "unpack", scene.directory, out, *scene.where[1:])
    assert subprocess.run(["diff", "-r", scene.source, out], check=False).returncode == 0
    assert (out / "kept").stat().st_mode & 0o777 == 0o640
    assert (out / "link").is_symlink()
    assert os.getxattr(out / "below", "user.label") == b"old"
    os.removexattr(scene.source / "below", "user.label")
    securetf("volume", "pack", scene.source, *scene.where, "--update")
    securetf("volume", "unpack", scene.directory, scene.area / "again", *scene.where[1:])
    assert os.listxattr(scene.area / "again" / "below") == []
    (scene.source / "new").unlink()
    (scene.source / "below" / "fresh").unlink()
    (scene.source / "below").rmdir()
    assert facts("volume", "pack", scene.source, *scene.where, "--update")["kept"] == 2
    names = [entry["name"] for entry in facts("volume", "ls", *scene.where)["entries"]]
    assert names == ["big", "kept", "link"]


def interrupted(scene: Scene) -> None:
    """Pack until five files are there, then raise as Ctrl-C does."""

    def interrupt(files: int, _: int) -> None:
        if files >= 5:
            raise KeyboardInterrupt

    trust = LocalTrust(scene.trust)
    with closing(open_volume(scene.directory, trust.grant(writable=True), trust.advance)) as volume:
        volume.pack(str(scene.source), interrupt)


def test_packing_goes_on_after_an_interruption(scene: Scene) -> None:
    for number in range(60):
        (scene.source / f"part{number:02}").write_bytes(os.urandom(200_000))
    with pytest.raises(KeyboardInterrupt):
        interrupted(scene)
    done = facts("volume", "pack", scene.source, *scene.where, "--update")
    assert done["files"] == 63
    assert done["kept"] >= 5
    securetf("volume", "unpack", scene.directory, scene.area / "out", *scene.where[1:])
    assert subprocess.run(["diff", "-r", scene.source, scene.area / "out"], check=False).returncode == 0
