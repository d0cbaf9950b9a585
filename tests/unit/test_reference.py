"""The reference pages agree with the code. `python tests/unit/test_reference.py` writes errors.md anew."""

import inspect
import re
import tomllib
from pathlib import Path

import click
import msgspec
import pytest

from securetf import errors, service_errors
from securetf import manifest as manifests
from securetf.cli import run as run_command
from securetf.cli.explain import classes
from securetf.cli.ways_out import WAYS_OUT
from securetf.endorsements import refusals
from securetf.launcher.plan import DEFAULT_ENVIRONMENT
from securetf.manifest import types
from securetf.serving import errors as serving_errors

DOCS = Path(__file__).parents[2] / "docs"
SECTIONS = {
    "[session]": types.Session,
    "[access]": types.Access,
    "[appraisal.PLATFORM]": types.PlatformPolicy,
    "[appraisal.sgx]": types.SgxPolicy,
    "[appraisal.sev_snp]": types.SnpPolicy,
    "[appraisal.nitro]": types.PcrPolicy,
    "[appraisal.azure_vtpm]": types.AzurePolicy,
    "[network]": types.Network,
    "[secrets.NAME]": types.Secret,
    "[volumes.NAME]": types.Volume,
    "[workloads.NAME]": types.Workload,
}


def errors_page() -> str:
    """Return docs/reference/errors.md as the error tree makes it."""
    rows = [
        f"| {code} | `{kind.__name__}` | {kind.exit_code} | "
        f"{' '.join(inspect.getdoc(kind).split())} | {WAYS_OUT[kind.__name__]} |"
        for code, kind in classes().items()
    ]
    return "\n".join(
        [
            "# Errors",
            "",
            "Every error is printed as `securetf: error [STF-nnnn]: what was found and expected` and",
            "`securetf: fix: what to do next`. A code never changes its meaning. `securetf explain STF-nnnn`",
            "prints a line of this table. [Exit codes](exit-codes.md) are coarser.",
            "",
            "| code | name | exit code | cause | way out |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def table_keys(page: str, heading: str) -> set[str]:
    section = page.split(f"## `{heading}`\n", 1)[1].split("\n## ", 1)[0]
    table = section.split("| key |", 1)[1].split("\n\n", 1)[0]
    return set(re.findall(r"^\| `([a-z0-9_]+)` \|", table, re.MULTILINE))


@pytest.mark.parametrize(("heading", "kind"), SECTIONS.items())
def test_manifest_page_when_compared_with_the_structs_has_each_key_and_no_other(
    heading: str, kind: type
) -> None:
    page = (DOCS / "reference/manifest.md").read_text()
    assert table_keys(page, heading) == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_manifest_page_when_its_example_is_parsed_is_valid_and_uses_every_table() -> None:
    page = (DOCS / "reference/manifest.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    manifests.parse(example)
    tables = {field.name for field in msgspec.structs.fields(types.Manifest)}
    assert set(tomllib.loads(example)) == tables - {"require", "binding"}  # which stand in [appraisal]


def test_manifest_page_when_compared_with_the_launcher_has_its_default_variables() -> None:
    page = (DOCS / "reference/manifest.md").read_text()
    for name, value in DEFAULT_ENVIRONMENT.items():
        assert f"| `{name}` | `{value}`" in page


def test_errors_page_when_generated_anew_is_the_same() -> None:
    assert (DOCS / "reference/errors.md").read_text() == errors_page(), f"run `python {__file__}`"


def test_exit_codes_page_when_compared_with_the_errors_has_each_code_and_no_other() -> None:
    page = (DOCS / "reference/exit-codes.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert listed == {0, *(kind.exit_code for kind in classes().values())}


def test_run_page_when_compared_with_the_command_has_each_option() -> None:
    page = (DOCS / "how-to/run-a-program.md").read_text()
    for parameter in run_command.command.params:
        if isinstance(parameter, click.Option) and parameter.hidden:
            continue
        name = (
            parameter.opts[0]
            if isinstance(parameter, click.Option)
            else parameter.human_readable_name.upper()
        )
        assert f"| `{name}" in page


def test_ways_out_when_compared_with_the_errors_has_each_class_and_no_other() -> None:
    assert set(WAYS_OUT) == {kind.__name__ for kind in classes().values()}, "see src/securetf/cli/ways_out.py"


def test_error_docstrings_when_explained_say_more_than_the_name() -> None:
    for kind in classes().values():
        assert len(inspect.getdoc(kind) or "") > 20
        assert kind.__module__ in {one.__name__ for one in (errors, refusals, service_errors, serving_errors)}


if __name__ == "__main__":
    (DOCS / "reference/errors.md").write_text(errors_page())
