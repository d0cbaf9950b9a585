"""The Manifest's `protection` and `host_paths`: what is accepted, and each refusal with its key and fix."""

# ruff: noqa: E501  (the table of refusals reads best with one refusal per line)

import posixpath
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securetf import manifest as manifests
from securetf.errors import ManifestValueError
from securetf.launcher.plan import describe, plan

GOOD = """
[session]
name = "acme/digits"
[volumes.data]
protection = "authenticated"
[volumes.scratch]
protection = "ephemeral"
[volumes.model]
writer = "trainer"
[secrets.token]
kind = "value"
[workloads.trainer]
command = ["/bin/true"]
volumes = { data = "/data:ro", scratch = "/scratch:rw", model = "/model:rw" }
secrets = { token = "file:/run/secrets/token" }
memory = { "/fast" = 4096 }
host_paths = { "/usr" = "ro", "/etc/ssl" = "ro", "/out" = "rw" }
"""


def test_plan_when_volumes_are_of_three_protections_says_how_each_is_kept() -> None:
    planned = plan(manifests.parse(GOOD), "trainer", host_environment={}, volumes=Path("/v"))
    kinds = {one.path: (one.kind, one.writable) for one in planned.mounts if one.directory is not None}
    assert kinds == {
        "/data": ("volume", False), "/scratch": ("ephemeral", True), "/model": ("volume", True),
    }  # fmt: skip
    said = describe(planned, simulation=None)
    assert "   /data (ro): volume data, plain files, verified when read, in /v/data" in said
    assert "   /scratch (rw): scratch, gone after this run; ciphertext in /v/scratch" in said
    assert "2. receive from the CAS: keys of the volumes data, model; the secrets token" in said
    first = said.index("   of this machine's files the program sees these alone:")
    assert said[first + 1 : first + 4] == ["   /etc/ssl (ro)", "   /out (rw)", "   /usr (ro)"]


def test_plan_when_host_paths_are_left_out_shows_everything_and_when_empty_nothing() -> None:
    key = 'host_paths = { "/usr" = "ro", "/etc/ssl" = "ro", "/out" = "rw" }'
    for text, expected in (("", None), ("host_paths = {}", {})):
        parsed = manifests.parse(GOOD.replace(key, text))
        planned = plan(parsed, "trainer", host_environment={}, volumes=Path("/v"))
        assert planned.host_paths == expected
        assert ("these alone" in "\n".join(describe(planned, simulation=None))) is (expected is not None)


def test_hash_when_the_protection_or_a_host_path_changes_is_another() -> None:
    changes = [
        ("", ""),
        ("authenticated", "encrypted"),
        ('"/out" = "rw"', '"/out" = "ro"'),
        (', "/out" = "rw"', ""),
    ]
    assert len({manifests.manifest_hash(manifests.parse(GOOD.replace(*one))) for one in changes}) == 4


REFUSALS = [
    # what is changed, what it becomes, what the problem says, what the fix says
    ('"authenticated"', '"signed"', '`volumes.data.protection` is "signed", expected', ""),
    ('"authenticated"', '"plain"', '`volumes.data.protection` is "plain", expected', ""),
    ('"authenticated"', '"authenticated"\nwriter = "trainer"', '`volumes.data` has protection "authenticated" and writer "trainer"', '"encrypted"'),
    ('"authenticated"', '"authenticated"\nfreshness = "follow"', '`volumes.data` has protection "authenticated" and freshness "follow"', '"encrypted"'),
    ('"authenticated"', '"authenticated"\nfreshness = "strict"', '`volumes.data` has protection "authenticated" and freshness "strict"', '"encrypted"'),
    ('"ephemeral"', '"ephemeral"\nwriter = "trainer"', '`volumes.scratch` has protection "ephemeral" and other keys', "leave"),
    ('"ephemeral"', '"ephemeral"\nfreshness = "pinned"', '`volumes.scratch` has protection "ephemeral" and other keys', "leave"),
    ('"ephemeral"', '"ephemeral"\nper_instance = true', '`volumes.scratch` has protection "ephemeral" and other keys', "leave"),
    ("/data:ro", "/data:rw", "it has no `writer`", "/data:ro"),
    ("/scratch:rw", "/scratch:ro", "scratch is ephemeral: empty until this program writes it", '"/scratch:rw"'),
    ('"/out" = "rw"', '"/out" = "rx"', "`workloads.trainer.host_paths.\"/out\"` is \"rx\", expected \"ro\" or \"rw\"", "use one"),
    ('"/out" = "rw"', '"out" = "rw"', 'has the path "out", expected an absolute one', "correct"),
    ('"/out" = "rw"', '"/" = "ro"', "expected an absolute one", "correct"),
    ('"/out" = "rw"', '"/usr/../etc" = "ro"', "expected an absolute one", "correct"),
    ('"/out" = "rw"', '"/out/" = "ro"', "expected an absolute one", "correct"),
    ('"/out" = "rw"', '"/proc" = "ro"', "would show /proc, of which every program gets its own part", "/dev/nvidia0"),
    ('"/out" = "rw"', '"/proc/1" = "ro"', "would show /proc/1, of which", "remove"),
    ('"/out" = "rw"', '"/dev" = "rw"', "would show /dev, of which", "/dev/nvidia0"),
    ('"/out" = "rw"', '"/data" = "rw"', "uses /data, which `workloads.trainer.volumes.data` uses too", "elsewhere"),
    ('"/out" = "rw"', '"/model/x" = "rw"', "lies inside /model of `workloads.trainer.volumes.model`, which is protected", "elsewhere"),
    ('"/out" = "rw"', '"/scratch/x/y" = "ro"', "lies inside /scratch of", "elsewhere"),
    ('"/out" = "rw"', '"/fast/x" = "ro"', "lies inside /fast of", "elsewhere"),
    ('"/out" = "rw"', '"/run/securetf/home" = "ro"', "lies inside /run/securetf of", "elsewhere"),
    ('"/out" = "rw"', '"/run/secrets/x" = "ro"', "/run/secrets cannot be kept for secrets alone: /run/secrets/x is there", "holds nothing else"),
    ('"/out" = "rw"', '"/run/secrets" = "ro"', "/run/secrets cannot be kept for secrets alone", "holds nothing else"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "problem", "fix"), REFUSALS)
def test_parse_when_a_protection_or_host_path_is_wrong_names_the_key_and_the_fix(
    old: str, new: str, problem: str, fix: str
) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(ManifestValueError) as refused:
        manifests.parse(GOOD.replace(old, new))
    assert problem in refused.value.problem
    assert fix in refused.value.fix
    assert refused.value.exit_code == 12


PARTS = st.lists(
    st.sampled_from(["data", "model", "scratch", "fast", "usr", "run", "secrets", "token", "securetf", "x"]),
    min_size=1,
    max_size=4,
)


@given(st.sets(PARTS.map("/".join), max_size=4), st.sampled_from(["ro", "rw"]))
def test_parse_never_accepts_a_host_path_at_or_inside_of_what_is_protected(
    paths: set[str], mode: str
) -> None:
    value = ", ".join(f'"/{path}" = "{mode}"' for path in sorted(paths))
    text = GOOD.replace('"/usr" = "ro", "/etc/ssl" = "ro", "/out" = "rw"', value)
    protected = {"/data", "/model", "/scratch", "/fast", "/run/securetf", "/run/secrets"}
    inside = [
        path for path in paths if any(posixpath.commonpath([f"/{path}", one]) == one for one in protected)
    ]
    if inside:
        with pytest.raises(ManifestValueError):
            manifests.parse(text)
    else:
        shown = manifests.workload(manifests.parse(text), "trainer").host_paths
        assert shown == {f"/{path}": mode for path in paths}
