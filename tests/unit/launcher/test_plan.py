"""The plan: the Manifest and the named host variables alone count; `--dry-run` shows it, without secrets."""

from dataclasses import replace
from pathlib import Path

import pytest

from securetf import manifest as manifests
from securetf.errors import ManifestValueError, UsageError
from securetf.launcher.plan import describe, plan
from securetf.shields.buckets import bucket

MANIFEST = manifests.parse(
    f"""
[session]
name = "acme/digits"
[secrets.token]
kind = "random"
size_bytes = 16
[secrets.licence]
kind = "value"
[volumes.code]
freshness = "pinned"
root = "sha256:{"1" * 64}"
[volumes.model]
writer = "trainer"
[workloads.trainer]
command = ["python", "/app/train.py", "two words"]
environment = {{ SEED = "7", HOME = "/model" }}
host_environment = ["RANK", "WORLD"]
volumes = {{ model = "/app/out/model:rw", code = "/app:ro" }}
memory = {{ "/scratch" = 4096 }}
secrets = {{ token = "file:/run/secrets/token", licence = "env:LICENCE" }}
[workloads.idle]
command = ["true"]
"""
)
HOST = {"RANK": "0", "PATH": "/evil", "LD_PRELOAD": "/evil.so"}


def test_plan_when_the_host_sets_variables_takes_the_named_ones_only() -> None:
    planned = plan(MANIFEST, "trainer", host_environment=HOST, volumes=Path("/v"))
    assert planned.environment == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/model",
        "TMPDIR": "/run/securetf/tmp",
        "LANG": "C.UTF-8",
        "SEED": "7",
        "RANK": "0",
    }
    assert planned.absent_environment == ("WORLD",)


def test_plan_when_mounts_are_nested_puts_the_outer_ones_first() -> None:
    planned = plan(
        MANIFEST, "trainer", host_environment={}, volumes=Path("/v"), directories={"code": Path("/c")}
    )
    assert [(one.path, one.kind, one.directory) for one in planned.mounts] == [
        ("/app", "volume", Path("/c")),
        ("/scratch", "memory", None),
        ("/run/secrets", "secrets", None),
        ("/run/securetf", "memory", None),
        ("/app/out/model", "volume", Path("/v/model")),
    ]
    assert planned.code_roots == {"code": b"\x11" * 32}


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        ({}, "no directory is given for the volume model", "`--volume model=DIR`"),
        ({"directories": {"modle": Path("/m")}}, "trainer mounts no volume of this name", "code, model"),
    ],
)
def test_plan_when_directories_do_not_fit_says_which(arguments: dict, problem: str, fix: str) -> None:
    with pytest.raises(UsageError) as refused:
        plan(MANIFEST, "trainer", host_environment={}, **arguments)
    assert problem in refused.value.problem
    assert fix in refused.value.fix


BUCKET = bucket(
    "s3://sets/code",
    {"AWS_ENDPOINT_URL": "http://h", "AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "never shown"},
)


def test_plan_when_a_volume_lies_in_a_bucket_names_it_without_its_access_key() -> None:
    planned = plan(MANIFEST, "trainer", host_environment={}, volumes=Path("/v"), directories={"code": BUCKET})
    assert [one.directory for one in planned.mounts if one.name == "code"] == [BUCKET]
    shown = "\n".join(describe(planned, simulation=None))
    assert "   /app (ro): volume code, ciphertext in s3://sets/code" in shown
    assert "never shown" not in shown + repr(planned)


def test_plan_when_a_bucket_is_for_what_is_written_or_its_cache_is_the_programs_says_what_to_do() -> None:
    with pytest.raises(UsageError) as refused:
        plan(MANIFEST, "trainer", host_environment={}, volumes=Path("/v"), directories={"model": BUCKET})
    assert "model is mounted for writing, and s3://sets/code is a bucket" in refused.value.problem
    assert "mount it as /app/out/model:ro in the Manifest, or give `--volume model=DIR`" in refused.value.fix
    inside = replace(BUCKET, directory="/scratch/below")
    with pytest.raises(UsageError) as refused:
        plan(MANIFEST, "trainer", host_environment={}, volumes=Path("/v"), directories={"code": inside})
    assert "would lie in /scratch/below, and /scratch is the program's own" in refused.value.problem
    assert "SECURETF_BUCKET_DIRECTORY" in refused.value.fix


def test_plan_when_there_is_no_such_workload_names_the_nearest() -> None:
    with pytest.raises(ManifestValueError) as refused:
        plan(MANIFEST, "trianer", host_environment={})
    assert '"trainer"' in refused.value.fix


def test_describe_when_printed_shows_every_step_what_is_not_checked_and_the_simulation() -> None:
    planned = plan(MANIFEST, "trainer", host_environment=HOST, volumes=Path("/v"))
    lines = describe(planned, simulation=Path("/platform"))
    assert lines == [
        f"workload trainer, instance 0, of acme/digits, Manifest {manifests.hash_text(MANIFEST)}",
        "1. attest: INSECURE SIMULATION from /platform",
        f"   measured code: code sha256:{'1' * 64}",
        "2. receive from the CAS: keys of the volumes code, model; the secrets licence, token",
        "3. mount, for the program alone:",
        "   /app (ro): volume code, ciphertext in /v/code",
        "   /scratch (rw): memory, at most 4096 bytes, never on disk",
        "   /run/secrets (rw): secrets, at most 1048576 bytes, never on disk",
        "   /run/securetf (rw): memory, at most 1073741824 bytes, never on disk",
        "   /app/out/model (rw): volume model, ciphertext in /v/model",
        "   /run/secrets/token: secret token",
        "4. shield the network: the program has none but its own loopback",
        "5. start in /: python /app/train.py 'two words'",
        "   HOME=/model",
        "   LANG=C.UTF-8",
        "   PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "   RANK=0",
        "   SEED=7",
        "   TMPDIR=/run/securetf/tmp",
        "   LICENCE=<secret licence>",
        "   WORLD is not set on this host",
        "6. wait, unmount, commit what was written, anchor it at the CAS, return the program's exit status",
        "not checked: CAS, attestation, if this Manifest is current, volumes, network, program, root, FUSE",
    ]
    assert describe(plan(MANIFEST, "idle", host_environment={}), simulation=None)[2] == (
        "2. receive from the CAS: nothing"
    )
