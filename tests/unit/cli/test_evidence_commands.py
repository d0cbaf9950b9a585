"""`securetf evidence show`, `securetf measure`, `securetf simulation create`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from securetf.attester.insecure_simulation import SimulatedTdx, load_anchor
from securetf.attester.measurement import software_measurement
from securetf.cli import evidence, measure, simulation
from securetf.errors import AttesterError, MalformedEvidenceError


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    directory = tmp_path / "platform"
    result = CliRunner().invoke(simulation.command, ["create", str(directory)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "INSECURE SIMULATION" in result.output
    return directory


@pytest.fixture
def quote(platform: Path, tmp_path: Path) -> Path:
    path = tmp_path / "quote.bin"
    path.write_bytes(SimulatedTdx(platform, {}).attest(bytes(range(64))).raw)
    return path


def test_show_when_simulated_quote_then_prints_fields_and_what_it_is(quote: Path) -> None:
    result = CliRunner().invoke(evidence.command, ["show", str(quote)], catch_exceptions=False)
    assert result.output.startswith("not authenticated")
    assert "INSECURE SIMULATION: proves nothing" in result.output
    assert software_measurement().hex() in result.output


def test_show_when_json_then_one_object(quote: Path) -> None:
    result = CliRunner().invoke(evidence.command, ["show", str(quote), "--json"], catch_exceptions=False)
    facts = json.loads(result.output)
    assert facts["mr_td"] == software_measurement().hex()
    assert facts["report_data"] == bytes(range(64)).hex()
    assert (facts["authenticated"], facts["simulated"], facts["debug"]) == (False, True, False)
    assert (facts["platform"], facts["version"], facts["fmspc"]) == ("insecure_simulation", 4, "00000053494D")


def test_show_when_file_is_missing_or_no_quote_then_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no quote")
    for name, reason in (("absent", "cannot read"), ("text", "begin no TDX quote"), ("", "cannot read")):
        with pytest.raises(MalformedEvidenceError, match=reason):
            CliRunner().invoke(evidence.command, ["show", str(tmp_path / name)], catch_exceptions=False)


def test_measure_when_run_then_prints_the_reference_value() -> None:
    result = CliRunner().invoke(measure.command, [], catch_exceptions=False)
    assert result.output.strip() == software_measurement().hex()
    result = CliRunner().invoke(measure.command, ["--json"], catch_exceptions=False)
    facts = json.loads(result.output)
    assert facts["mr_td"] == software_measurement().hex()
    assert "securetf/errors.py" in facts["files"]


def test_create_when_json_then_names_the_root_and_its_pin(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    result = CliRunner().invoke(
        simulation.command, ["create", str(directory), "--json"], catch_exceptions=False
    )
    facts = json.loads(result.output)
    (pin,) = load_anchor(directory).spki_sha256
    assert facts["simulated"] is True
    assert facts["root_spki_sha256"] == pin.hex()
    assert Path(facts["root"]).exists()


def test_create_when_directory_is_not_empty_then_refused(platform: Path) -> None:
    with pytest.raises(AttesterError, match="is not empty"):
        CliRunner().invoke(simulation.command, ["create", str(platform)], catch_exceptions=False)
