"""The documents agree with the code: commands, options, error codes, make targets and links."""

import importlib.util
import re
import subprocess
from pathlib import Path

import click
import pytest

from securetf.cli.explain import classes

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*/README.md"),
        ROOT / "benchmarks/README.md",
    ]
    if path.is_file()
)


def reference():
    """Return scripts/reference.py as a module."""
    return script("reference")


def script(name: str):
    """Return a file of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path) -> str:
    """Return the code blocks of a page."""
    return "\n".join(re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """Return the anchors that the headings of a page have."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_command_page_when_generated_anew_is_the_same() -> None:
    page = ROOT / "docs" / "reference" / "cli.md"
    assert page.read_text() == reference().page(), "run `make docs`"


def test_commands_when_listed_each_say_what_they_do_and_explain_each_option() -> None:
    for path, command in reference().commands(reference().root):
        assert command.help, path
        assert all(one.help for one in command.params if isinstance(one, click.Option)), path


def test_evaluation_has_a_section_for_each_benchmark_and_the_pictures_that_it_shows() -> None:
    evaluation = script("evaluation")
    assert set(evaluation.SECTIONS) == {path.stem for path in ROOT.glob("benchmarks/[a-z]*.py")}
    page = evaluation.PAGE.read_text()
    assert [one for one in evaluation.SECTIONS.values() if f"## {one}\n" not in page] == []
    shown = set(re.findall(r"\(evaluation/(\S+)\)", page))
    assert shown == {path.name for path in evaluation.PICTURES.glob("*")}


def test_error_codes_when_listed_each_have_their_row() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    assert {code for code in classes() if f"| {code} |" not in page} == set()


def test_error_codes_when_documents_name_them_exist() -> None:
    named = {code for page in PAGES for code in re.findall(r"STF-\d{4}", page.read_text())}
    assert named <= set(classes())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_when_it_names_make_targets_names_real_ones(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:^|[`$&] ?)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_when_it_shows_commands_shows_real_ones(page: Path) -> None:
    module = reference()
    known = {path for path, _ in module.commands(module.root)}
    for line in re.findall(r"^(?:\s*\$ )?(securetf [a-z].*)$", blocks(page), re.MULTILINE):
        words = line.replace(",", " ").split()
        assert " ".join(words[:2]) in known or " ".join(words[:3]) in known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_when_it_links_inside_the_repository_links_to_what_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def test_documents_when_listed_are_all_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    missing = {page for page in pages if f"({page})" not in index}
    assert not missing


def test_decisions_when_listed_are_numbered_without_gaps() -> None:
    numbers = sorted(int(page.name[:4]) for page in (ROOT / "docs" / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_make_help_when_run_lists_each_public_target() -> None:
    shown = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in ("demo", "test", "lint", "bench", "docs", "clean"):
        assert f"make {target}" in shown


def test_readme_when_it_shows_the_demonstration_shows_each_of_its_steps_and_results() -> None:
    shown = blocks(ROOT / "README.md")
    story = (ROOT / "src/securetf/demo/story.py").read_text()
    steps = re.findall(r'screen\.step\("([^"]+)"\)', story)
    assert len(steps) == 8
    assert [step for number, step in enumerate(steps, 1) if f"{number}. {step}" not in shown] == []
    assert "SIMULATION" in shown
    assert "attacks refused" in shown
