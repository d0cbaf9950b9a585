"""The demonstration's commands: what fails is said, and nothing runs on."""

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from securetf import manifest as manifests
from securetf.demo import commands as demo_commands
from securetf.demo.commands import Commands, check_machine, left_over
from securetf.demo.example import Example, next_manifest
from securetf.demo.screen import SIMULATION, Screen
from securetf.errors import DemoError, EnvironmentUnfitError, UsageError

EXAMPLE = Path(__file__).parents[3] / "examples" / "mnist"


@pytest.fixture
def screen() -> Screen:
    return Screen(Console(file=io.StringIO(), width=200))


def shown(screen: Screen) -> str:
    assert isinstance(screen.console.file, io.StringIO)
    return screen.console.file.getvalue()


def test_command_when_it_fails_ends_the_demonstration_with_what_it_said(
    tmp_path: Path, screen: Screen
) -> None:
    with pytest.raises(DemoError, match=r"exit code 12(.|\n)*STF-1101"):
        Commands(tmp_path, screen).securetf("manifest", "check", "missing.toml")
    assert "$ securetf manifest check missing.toml" in shown(screen)


def test_attempt_when_it_fails_returns_code_and_message(tmp_path: Path, screen: Screen) -> None:
    result = Commands(tmp_path, screen).attempt("manifest", "check", "missing.toml")
    assert result.code == 12
    assert "STF-1101" in result.line_with("securetf: error")


def test_cas_when_it_does_not_start_is_reported_and_does_not_run_on(tmp_path: Path, screen: Screen) -> None:
    with (
        pytest.raises(DemoError, match="the CAS did not start"),
        Commands(tmp_path, screen).cas("--data", "cas", "--no-such-option"),
    ):
        pass


def test_cas_when_the_body_raises_is_ended(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = "import json, os, time; print(json.dumps({'url': str(os.getpid())}), flush=True); time.sleep(60)"
    monkeypatch.setattr(demo_commands, "SECURETF", (sys.executable, "-c", server))
    pid = "0"

    def use_cas() -> None:
        nonlocal pid
        with Commands(tmp_path, screen).cas() as pid:
            os.kill(int(pid), 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use_cas()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.parametrize(
    ("owner", "name", "value", "problem"),
    [
        (os, "geteuid", lambda: 1000, "running as user 1000, expected root"),
        (importlib.util, "find_spec", lambda _: None, "TensorFlow is not installed"),
    ],
)
def test_machine_when_it_lacks_something_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, value: object, problem: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(EnvironmentUnfitError, match=problem):
        check_machine()


def test_left_over_when_a_process_works_in_the_directory_names_it(tmp_path: Path) -> None:
    assert left_over(tmp_path) == []
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as process:
        try:
            assert left_over(tmp_path) == [f"process {process.pid}: sleep 60 "]
        finally:
            process.kill()


def test_step_when_it_ends_is_numbered_timed_and_in_the_summary(screen: Screen) -> None:
    with screen.step("first"):
        pass
    with screen.step("second"):
        screen.held("it held")
    screen.summary([("accuracy", "0.97")])
    assert "2. second" in shown(screen)
    assert "done in 0.0 s" in shown(screen)
    assert "securetf demo, SIMULATION" in shown(screen)
    assert "0.97" in shown(screen)


def test_screen_when_not_a_terminal_prints_no_control_codes(tmp_path: Path) -> None:
    code = "from securetf.demo.screen import Screen; Screen().title('x')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "\x1b" not in result.stdout
    assert SIMULATION in result.stdout


def test_example_when_the_folder_is_not_there_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.py is not there"):
        Example(tmp_path).check()


def test_manifests_of_the_demonstration_when_made_are_valid_and_chained() -> None:
    first = Example(EXAMPLE).first_manifest(measurement="ab" * 48, epochs=1)
    predecessor = manifests.hash_text(manifests.parse(first))
    roots = {"code": "sha256:" + "1" * 64, "train-data": "sha256:" + "2" * 64}
    second = manifests.parse(next_manifest(first, predecessor=predecessor, roots=roots))
    assert second.session.predecessor == predecessor
    assert second.workloads["trainer"].command[-1] == "1"
    assert manifests.code_roots(second, "trainer") == {
        "code": bytes.fromhex("1" * 64),
        "train-data": bytes.fromhex("2" * 64),
    }


def test_example_manifests_when_parsed_are_valid() -> None:
    for name in ("mnist", "cifar10"):
        assert "trainer" in manifests.load(EXAMPLE.parent / name / "manifest.toml").workloads
