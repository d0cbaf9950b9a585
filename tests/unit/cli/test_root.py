"""The command line's root: lazy, one form of error on stderr, exit codes that scripts can rely on."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from securetf import __version__, cli, errors

MANIFEST = """
[session]
name = "acme/digits"
[volumes.v]
[workloads.w]
command = ["true"]
volumes = { v = "/v:ro" }
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST)
    return path


def test_help_when_asked_lists_every_command_and_imports_none() -> None:
    script = (
        "import sys; from securetf.cli import call; call(['--help'])\n"
        "print([m for m in sys.modules if m.startswith('securetf')])"
    )
    out = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert out.splitlines()[-1] == "['securetf', 'securetf.errors', 'securetf.cli']"


def test_run_when_loaded_imports_no_heavy_module() -> None:
    heavy = ("tensorflow", "pydantic", "starlette", "uvicorn", "dcap_qvl", "rich", "numpy", "sqlite3")
    script = (
        "import sys; import securetf.cli.run, securetf.launcher.real, securetf.launcher.run\n"
        "import securetf.attester.insecure_simulation\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_commands_when_their_module_exists_export_a_command_with_help(name: str) -> None:
    module = cli.COMMANDS[name][0]
    if importlib.util.find_spec(module) is None:
        pytest.fail(f"{module} does not exist")
    found = cli.command.get_command(click.Context(cli.command), name)
    assert isinstance(found, click.Command)
    assert found.help


def test_version_when_asked_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["--version"]) == 0
    assert capsys.readouterr().out == f"securetf {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["explian"], "there is no command 'explian'", "did you mean `securetf explain`?"),
        (["xyzzy"], "there is no command 'xyzzy'", "`securetf --help` lists the commands"),
        (
            ["manifest", "chekc"],
            "No such command 'chekc'",
            "`securetf manifest --help` shows what is expected",
        ),
        (["manifest", "check"], "Missing argument 'FILE'", "`securetf manifest check --help`"),
        (["--nope"], "No such option", "--help"),
        (
            ["explain", "STF-1199"],
            "there is no error code STF-1199",
            "near it are STF-1200, STF-1201, STF-1202",
        ),
        (["explain", "busy"], "there is no error code busy", "near it are STF-2002"),
        (["run", "w", "--manifest", "M"], "no directory is given for the volume v", "`--volumes DIR`"),
        (["run", "w", "--manifest", "M", "--volumes", "/v"], "`--cas` is missing", "`securetf cas attest`"),
        (["run", "w", "--manifest", "M", "--volume", "v"], "`--volume v` is not NAME=DIR", "NAME=DIR"),
        (
            ["run", "w", "--manifest", "M", "--volume", "x=/v"],
            "w mounts no volume of this name",
            "volumes are v",
        ),
    ],
)
def test_run_when_arguments_are_wrong_prints_error_and_fix_and_ends_with_2(
    arguments: list[str], problem: str, fix: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call([str(manifest) if one == "M" else one for one in arguments]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("securetf: error [STF-1001]: ")
    assert problem in first
    assert second.startswith("securetf: fix: ")
    assert fix in second


def test_run_when_a_defect_shows_does_not_print_values(
    monkeypatch: pytest.MonkeyPatch, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_path: Path) -> None:
        raise KeyError("secret value")

    monkeypatch.setattr("securetf.manifest.load", broken)
    assert cli.call(["manifest", "check", str(manifest)]) == 70
    err = capsys.readouterr().err
    assert "securetf: error [STF-1000]: unexpected KeyError" in err
    assert "secret value" not in err
    with pytest.raises(KeyError):
        cli.call(["--traceback", "manifest", "check", str(manifest)])


def test_run_when_the_reader_of_stdout_has_gone_ends_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "securetf", "explain"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(20) in (0, 1, 141)


def test_manifest_check_when_valid_says_what_it_holds_and_what_was_not_checked(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["manifest", "check", str(manifest)]) == 0
    out = capsys.readouterr().out
    assert f"{manifest}: valid" in out
    assert "workloads: w" in out
    assert "note: `appraisal` names no platform: no workload will be accepted" in out
    assert "not checked:" in out
    assert cli.call(["manifest", "check", "--json", str(manifest)]) == 0
    assert json.loads(capsys.readouterr().out)["volumes"] == ["v"]


def test_manifest_check_when_wrong_names_the_key_and_ends_with_12(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.write_text(MANIFEST.replace("[volumes.v]", "[volumes.w]"))
    assert cli.call(["manifest", "check", str(manifest)]) == 12
    assert "`workloads.w.volumes.v` names the volume" in capsys.readouterr().err


def test_manifest_hash_and_diff_when_given_files_print_text_or_json(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["manifest", "hash", str(manifest)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("sha256:")
    assert cli.call(["manifest", "hash", "--json", str(manifest)]) == 0
    assert json.loads(capsys.readouterr().out) == {"hash": text.strip()}
    (tmp_path / "new.toml").write_text(MANIFEST.replace('"true"', '"false"'))
    assert cli.call(["manifest", "diff", str(manifest), str(tmp_path / "new.toml")]) == 0
    assert capsys.readouterr().out == 'workloads.w.command changes from ["true"] to ["false"]\n'
    assert cli.call(["manifest", "diff", "--json", str(manifest), str(manifest)]) == 0
    assert json.loads(capsys.readouterr().out) == {"changes": []}


def test_explain_when_given_a_code_prints_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    for spelling in ("STF-1102", "stf-1102", "1102"):
        assert cli.call(["explain", spelling]) == 0
        out = capsys.readouterr().out
        assert out.startswith("STF-1102 ManifestValueError (exit code 12)\n\nA key is unknown")
    assert cli.call(["explain", "--json", "1102"]) == 0
    assert json.loads(capsys.readouterr().out)["exit_code"] == 12
    assert cli.call(["explain", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 40


def test_error_codes_when_listed_are_unique_and_explained() -> None:
    kinds = [errors.SecuretfError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(kind.__doc__ and kind.__doc__ != errors.SecuretfError.__doc__ for kind in kinds[1:])


def test_dry_run_when_asked_prints_the_plan_and_contacts_nobody(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "w", "--manifest", str(manifest), "--volumes", "/v", "--dry-run"]
    assert cli.call([*arguments, "--insecure-simulation", "/p"]) == 0
    out = capsys.readouterr().out
    assert "1. attest: INSECURE SIMULATION from /p" in out
    assert "/v (ro): volume v, ciphertext in /v/v" in out
    assert "not checked: CAS" in out


def test_run_when_an_outside_rule_is_not_of_the_workload_names_those_that_are(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "w", "--manifest", str(manifest), "--volumes", "/v", "--dry-run"]
    assert cli.call([*arguments, "--outside", "rest=127.0.0.1:1"]) == 2
    assert "its rules are none; write NAME=IP:PORT" in capsys.readouterr().err
    with manifest.open("a") as file:
        file.write("[workloads.w.outside]\nrest = { port = 1, public = 2, clients = [] }\n")
    assert cli.call([*arguments, "--outside", "rest=127.0.0.1:1", "--outside", "rest=127.0.0.1:2"]) == 2
    assert cli.call([*arguments, "--outside", "rest=127.0.0.1:1"]) == 0
    shown = capsys.readouterr().out
    assert "port 1 (rest): from OUTSIDE of the session by TLS on port 2, 0 client keys" in shown


def test_run_when_the_report_cannot_be_written_says_so_before_anything_is_started(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "w", "--manifest", str(manifest), "--volumes", "/v", "--cas", "/no/cas.json"]
    assert cli.call([*arguments, "--report", "/no/such/report.json"]) == 30
    assert "error [STF-1002]: the report /no/such/report.json cannot be written" in capsys.readouterr().err
