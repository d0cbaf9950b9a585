"""Which versions are to be served, and which directories count as versions."""

import hashlib

import pytest

from securetf.serving import engines, repository
from securetf.serving.errors import ModelLoadError


@pytest.mark.parametrize(
    ("there", "served", "highest", "keep", "lower", "wanted"),
    [
        ({1, 2}, set(), -1, 1, False, {2}),
        ({1, 2}, set(), -1, 2, False, {1, 2}),
        ({1, 2, 3}, {2}, 2, 1, False, {3}),
        ({1}, {2}, 2, 1, False, {2}),  # 2 has gone, 1 is older: the rollback is not followed
        (set(), {2}, 2, 1, False, {2}),
        ({1}, {2}, 2, 1, True, {1}),
        (set(), {2}, 2, 1, True, {2}),
        ({1, 3}, {2, 3}, 3, 2, False, {3}),  # 2 was removed by hand; 1 does not come back
        ({4}, {3}, 3, 2, False, {4}),
        ({0, 5}, set(), 7, 1, False, set()),  # nothing is better than what is older than something served
    ],
)
def test_versions_when_aspired_to_never_go_back_unless_allowed(
    there, served, highest, keep, lower, wanted
) -> None:
    found = repository.aspired(there, served=served, highest=highest, keep=keep, allow_lower=lower)
    assert found == wanted


def test_scan_when_directories_are_of_all_kinds_sees_only_versions_with_a_model(tmp_path) -> None:
    for name in (
        "m/1/a.tflite",
        "m/002/saved_model.pb",
        "m/3/readme.txt",
        "m/x/a.tflite",
        ".hidden/1/a.tflite",
        "m/.4/a.tflite",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = repository.scan(tmp_path)
    assert {model: sorted(versions) for model, versions in found.items()} == {"m": [1, 2]}


def test_version_when_it_holds_two_models_is_refused(tmp_path) -> None:
    for name in ("a.tflite", "b.tflite"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelLoadError, match="holds 2 models"):
        engines.model_file(tmp_path)


def test_digest_when_the_model_is_a_file_or_a_directory_is_the_receipts(tmp_path) -> None:
    (tmp_path / "variables").mkdir()
    names = [b"saved_model.pb", b"variables/variables.index"]
    for name in names:
        (tmp_path / name.decode()).write_bytes(name)
    parts = [len(name).to_bytes(4, "big") + name + hashlib.sha256(name).digest() for name in names]
    assert repository.digest(tmp_path) == hashlib.sha256(b"".join(parts)).hexdigest()
    with repository.Digest(tmp_path) as read_by_the_engine:
        pass
    assert read_by_the_engine.hex() == repository.digest(tmp_path)
    with repository.Digest(tmp_path / "saved_model.pb") as read_here:
        assert read_here.read(tmp_path / "saved_model.pb") == b"saved_model.pb"
        (tmp_path / "saved_model.pb").write_bytes(b"changed afterwards")
    assert read_here.hex() == hashlib.sha256(b"saved_model.pb").hexdigest()
    (tmp_path / "saved_model.pb").write_bytes(b"saved_model.pb")
    assert repository.digest(tmp_path / "saved_model.pb") == hashlib.sha256(b"saved_model.pb").hexdigest()
