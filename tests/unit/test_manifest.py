"""The Manifest: strict, every error names the dotted key and the fix, the hash does not depend on spelling."""

# ruff: noqa: E501  (the table of refusals reads best with one refusal per line)

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securetf import manifest as manifests
from securetf.errors import ManifestError, ManifestSyntaxError, ManifestValueError
from securetf.manifest.convert import struct

ZERO_ROOT = "sha256:" + "0" * 64
GOOD = f"""
[session]
name = "acme/digits"
predecessor = "{ZERO_ROOT}"
[access]
read = ["creator", "ed25519:{"a" * 64}"]
update = ["creator"]
[appraisal.insecure_simulation]
mr_td = ["{"0" * 96}"]
tolerate = ["INTEL-SA-00837"]
[secrets.api-token]
kind = "random"
size_bytes = 32
[secrets.licence]
kind = "value"
[volumes.code]
freshness = "pinned"
root = "sha256:{"1" * 64}"
[volumes.train-data]
[volumes.model]
writer = "trainer"
export = ["creator"]
[workloads.trainer]
command = ["python", "/app/train.py", "--epochs", "3"]
environment = {{ SEED = "7" }}
host_environment = ["RANK"]
volumes = {{ code = "/app:ro", train-data = "/data:ro", model = "/model:rw" }}
secrets = {{ api-token = "file:/run/secrets/token", licence = "env:LICENCE" }}
memory = {{ "/scratch" = 1048576 }}
"""


def test_parse_when_all_keys_are_right_gives_the_values() -> None:
    manifest = manifests.parse(GOOD)
    trainer = manifests.workload(manifest, "trainer")
    assert manifest.session.name == "acme/digits"
    assert trainer.command == ("python", "/app/train.py", "--epochs", "3")
    assert trainer.working_directory == "/"
    assert manifests.mounts(manifest, "trainer") == {
        "code": ("/app", False), "train-data": ("/data", False), "model": ("/model", True),
    }  # fmt: skip
    assert manifests.secret_places(trainer) == {
        "api-token": ("file", "/run/secrets/token"), "licence": ("env", "LICENCE"),
    }  # fmt: skip
    assert manifest.appraisal["insecure_simulation"].tcb == ("UpToDate",)
    assert manifests.code_roots(manifest, "trainer") == {"code": b"\x11" * 32}


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


@pytest.mark.parametrize("beneath", ["/models/in", "/models/scratch", "/models/secrets"])
def test_parse_when_something_is_mounted_beneath_a_followed_volume_refuses(beneath: str) -> None:
    text = changed("[volumes.train-data]", '[volumes.train-data]\nfreshness = "follow"')
    text = text.replace('train-data = "/data:ro"', 'train-data = "/models:ro"')
    assert manifests.parse(text).volumes["train-data"].freshness == "follow"
    old = {"in": '"/app:ro"', "scratch": '"/scratch"', "secrets": '"file:/run/secrets/token"'}
    new = {"in": f'"{beneath}:ro"', "scratch": f'"{beneath}"', "secrets": f'"file:{beneath}/token"'}
    which = beneath.rpartition("/")[2]
    with pytest.raises(ManifestValueError, match=f"is followed, and {beneath} lies in it") as refused:
        manifests.parse(text.replace(old[which], new[which]))
    assert refused.value.fix.startswith(f"mount {beneath} elsewhere")


@pytest.mark.parametrize("freshness", ["strict", "async"])
def test_parse_when_a_workload_writes_a_volume_it_may_be_strict_or_async(freshness: str) -> None:
    text = changed('writer = "trainer"', f'writer = "trainer"\nfreshness = "{freshness}"')
    manifest = manifests.parse(text)
    assert manifest.volumes["model"].freshness == freshness
    assert manifests.manifest_hash(manifest) != manifests.manifest_hash(manifests.parse(GOOD))


REFUSALS = [
    # what is changed, what it becomes, what the problem says, what the fix says
    ('writer = "trainer"', 'writr = "trainer"', "`volumes.model.writr` is not a known key", "`writer`"),
    ("[access]", "[acess]", "`acess` is not a known key", "`access`"),
    ('name = "acme/digits"', "", "`session.name` is missing", "add it"),
    ('name = "acme/digits"', "name = 7", "`session.name` is an integer, expected a string", "as a string"),
    ('name = "acme/digits"', 'name = "acme"', '`session.name` is "acme", expected tenant/session', "correct"),
    ('name = "acme/digits"', 'name = "acme/digits\\n"', "`session.name`", "correct"),
    ('name = "acme/digits"', 'name = "../digits"', "`session.name`", "correct"),
    ("size_bytes = 32", "size_bytes = 0", "`secrets.api-token.size_bytes` is 0, expected 1 to 4096", "correct"),
    ("size_bytes = 32", "size_bytes = true", "is a boolean, expected an integer", "as an integer"),
    ("size_bytes = 32", "", "`secrets.api-token.size_bytes` is missing", "size_bytes = 32"),
    ('kind = "value"', 'kind = "value"\nsize_bytes = 8', "`secrets.licence.size_bytes` is 8", "remove"),
    ('kind = "value"', 'kind = "valeu"', '`secrets.licence.kind` is "valeu", expected "random" or', '"value"'),
    ('freshness = "pinned"', 'freshness = "strict"', 'is set, but the freshness is "strict"', "pinned"),
    ('freshness = "pinned"', 'freshness = "eventual"', 'expected "group" or "strict" or "async" or', "use one"),
    ('freshness = "pinned"', "", '`volumes.code.root` is set, but the freshness is "group"', "pinned"),
    ('freshness = "pinned"', 'freshness = "pinned"\nwriter = "trainer"', "never written by a workload", "remove"),
    ('freshness = "pinned"', 'freshness = "follow"', 'is set, but the freshness is "follow"', "pinned"),
    ('writer = "trainer"', 'writer = "triner"', 'the workload "triner", which is not defined', '"trainer"'),
    ('writer = "trainer"', "", "`volumes.model.export` is set, but no workload writes this volume", "remove"),
    ('writer = "trainer"\nexport = ["creator"]', "", '"/model:rw", but it has no `writer`', "/model:ro"),
    ("train-data = ", "traindata = ", 'the volume "traindata", which is not defined', '"train-data"'),
    ("api-token = ", "apitoken = ", 'the secret "apitoken", which is not defined', '"api-token"'),
    ("/app:ro", "/app", '`workloads.trainer.volumes.code` is "/app", expected "/path:ro" or', "mode"),
    ("/app:ro", "app:ro", 'has the path "app", expected an absolute one', "correct"),
    ("/app:ro", "/a/../app:ro", "expected an absolute one", "correct"),
    ("/app:ro", "/:ro", "expected an absolute one", "correct"),
    ("/app:ro", "/app/:ro", "expected an absolute one", "correct"),
    ("/app:ro", "/app:rw", "`workloads.trainer.volumes.code`", ":ro"),
    ("/app:ro", "/data:ro", "uses /data, which `workloads.trainer.volumes.code` uses too", "elsewhere"),
    ("/app:ro", "/run/securetf:ro", "the program's home directory", "elsewhere"),
    ('"/scratch" = 1048576', '"/model" = 1048576', "uses /model", "elsewhere"),
    ('"/scratch" = 1048576', '"/scratch" = 1', 'workloads.trainer.memory."/scratch"` is 1, expected 4096', "corr"),
    ("file:/run/secrets/token", "file:/token", "the root directory", "/run/secrets"),
    ("file:/run/secrets/token", "file:/app/token", "cannot be kept for secrets alone", "/run/secrets"),
    ("file:/run/secrets/token", "/run/secrets/token", 'expected "file:/path" or "env:NAME"', "finds it"),
    ("env:LICENCE", "env:LI CENCE", 'expected "file:/path" or "env:NAME"', "finds it"),
    ("env:LICENCE", "env:SEED", "SEED is set already", "another name"),
    ('["RANK"]', '["SEED"]', "names SEED, which `environment` sets too", "remove"),
    ('["RANK"]', '["RANK", "RANK"]', '`workloads.trainer.host_environment` names "RANK" twice', "remove"),
    ('["RANK"]', '["RA=NK"]', '`workloads.trainer.host_environment[0]` is "RA=NK"', "correct"),
    ('["RANK"]', '"RANK"', "`workloads.trainer.host_environment` is a string, expected a list", "as a list"),
    ('SEED = "7"', "SEED = 7", "`workloads.trainer.environment.SEED` is an integer, expected a string", "string"),
    ('SEED = "7"', '"SE ED" = "7"', '`workloads.trainer.environment."SE ED"`', "correct"),
    ('SEED = "7"', 'SEED = "\\u0000"', "expected text without a NUL", "correct"),
    (f'mr_td = ["{"0" * 96}"]', "mr_td = []", "is an empty list, which allows nothing", "name what is allowed"),
    (f'mr_td = ["{"0" * 96}"]', "", "`appraisal.insecure_simulation.mr_td` is missing", "add it"),
    (f'mr_td = ["{"0" * 96}"]', f'mr_td = ["{"A" * 96}"]', "96 hex digits in lower case", "correct"),
    ("[appraisal.insecure_simulation]", "[appraisal.tdxx]", '`appraisal.tdxx` is "tdxx", expected "tdx"', '"tdx"'),
    ('update = ["creator"]', 'update = ["owner"]', '`access.update[0]` is "owner", expected "creator"', "correct"),
    ('update = ["creator"]', 'update = ["creator"]\n[board]\napprove = 2', "`board` is not a known key", "remove"),
    ('["python", "/app/train.py", "--epochs", "3"]', "[]", "`workloads.trainer.command` is an empty list", "name"),
    ('["python", "/app/train.py", "--epochs", "3"]', '[""]', "starts with an empty word", "program"),
    ('command = ["python"', 'instances = 2\ncommand = ["python"', "`workloads.trainer.instances` is an integer, expected a table", "as a table"),
    ("[volumes.train-data]", '[volumes."a/b"]', '`volumes."a/b"` is "a/b"', "correct"),
    ("[volumes.train-data]", "[volumes.train-data]\nprotection = 1979-05-27", 'expected "encrypted"', "expected"),
    (f'root = "sha256:{"1" * 64}"', 'root = "sha256:11"', "`volumes.code.root`", "correct"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "problem", "fix"), REFUSALS)
def test_parse_when_one_key_is_wrong_names_the_key_and_the_fix(
    old: str, new: str, problem: str, fix: str
) -> None:
    with pytest.raises(ManifestValueError) as refused:
        manifests.parse(changed(old, new))
    assert problem in refused.value.problem
    assert fix in refused.value.fix
    assert refused.value.exit_code == 12


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[session", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
        (GOOD[: len(GOOD) // 2].rsplit('"', 1)[0], "is not TOML"),
        ("#" * (manifests.MAX_SIZE + 1), "bytes, the limit is 262144"),
        ("a = " + "[" * 5000, "is not TOML"),
        ('a = "\ud800"', "not Unicode"),
    ],
)
def test_parse_when_it_is_not_toml_or_too_large_says_so(text: str, problem: str) -> None:
    with pytest.raises(ManifestSyntaxError) as refused:
        manifests.parse(text)
    assert problem in refused.value.problem


def test_load_when_the_file_is_missing_not_utf8_or_too_large_says_so(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    for content, problem in (
        (None, "cannot be read"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"#" * 300_000, "larger"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ManifestSyntaxError) as refused:
            manifests.load(path)
        assert problem in refused.value.problem
        assert str(path) in refused.value.problem


def test_hash_when_only_spelling_order_and_defaults_differ_is_the_same() -> None:
    plain = '[session]\nname = "a/b"\n[volumes.v]\n[volumes.u]\n'
    other = (
        "[volumes]\nu = { protection = \"encrypted\" }\nv = {}\n# remark\n[session]\nname = 'a/b'\n[access]\n"
    )
    assert manifests.canonical(manifests.parse(plain)) == manifests.canonical(manifests.parse(other))
    assert manifests.manifest_hash(manifests.parse(plain)) != manifests.manifest_hash(manifests.parse(GOOD))


def test_canonical_when_released_stays_byte_for_byte_the_same() -> None:
    manifest = manifests.parse('[session]\nname = "a/b"\n[secrets.s]\nkind = "value"\n[volumes.v]\n')
    assert manifests.canonical(manifest) == (
        b'{"access":{"read":["creator"],"update":["creator"]},"appraisal":{},"secrets":{"s":{"kind":"value",'
        b'"size_bytes":0}},"session":{"name":"a/b","predecessor":null},"volumes":{"v":{"export":[],"freshness":'
        b'"group","protection":"encrypted","root":null,"writer":null}},"workloads":{}}'
    )
    assert manifests.hash_text(manifest) == (
        "sha256:ce621bdd7f07f2f85c1c00b0b228ca16a33989046e487cb261dde31f9661ec24"
    )


def test_workload_when_there_is_none_of_this_name_lists_those_there_are() -> None:
    with pytest.raises(ManifestValueError) as refused:
        manifests.workload(manifests.parse(GOOD), "triner")
    assert 'no workload "triner"; it has trainer' in refused.value.problem
    assert '"trainer"' in refused.value.fix


def test_diff_when_keys_are_added_removed_and_changed_says_each_in_a_sentence() -> None:
    new = (
        changed('SEED = "7"', 'SEED = "8"')
        .replace('["RANK"]', '["WORLD"]')
        .replace("[secrets.licence]", "[secrets.l2]")
    )
    new = new.replace("licence = ", "l2 = ").replace(f'predecessor = "{ZERO_ROOT}"', "")
    assert manifests.diff(manifests.parse(GOOD), manifests.parse(new)) == [
        'secrets.l2 is added: {"kind":"value","size_bytes":0}',
        'secrets.licence is removed; it was {"kind":"value","size_bytes":0}',
        f'session.predecessor is removed; it was "{ZERO_ROOT}"',
        'workloads.trainer.environment.SEED changes from "7" to "8"',
        'workloads.trainer.host_environment no longer names "RANK"',
        'workloads.trainer.host_environment now names "WORLD"',
        'workloads.trainer.secrets.l2 is added: "env:LICENCE"',
        'workloads.trainer.secrets.licence is removed; it was "env:LICENCE"',
    ]
    assert manifests.diff(manifests.parse(GOOD), manifests.parse(GOOD)) == []


@given(st.text(max_size=200))
def test_parse_when_given_any_text_returns_a_manifest_or_a_manifest_error(text: str) -> None:
    with contextlib.suppress(ManifestError):
        manifests.parse(text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5000) | st.text("abc/:", max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)


@given(st.data())
def test_convert_when_one_value_is_replaced_by_any_other_gives_a_manifest_or_a_manifest_error(
    data: st.DataObject,
) -> None:
    tree = tomllib.loads(GOOD)
    table = tree
    while True:
        key = data.draw(st.sampled_from(sorted(table)))
        if isinstance(table[key], dict) and table[key] and data.draw(st.booleans()):
            table = table[key]
            continue
        table[key] = data.draw(_json)
        break
    with contextlib.suppress(ManifestValueError):  # any other exception is the defect that this looks for
        struct(tree, manifests.Manifest)
