"""The tree is the architecture: what ARCHITECTURE.md and STYLE.md promise of the shape, checked."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from securetf.claims import Platform

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "securetf"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PURE = ("appraisal", "evidence", "provisioning", "verifier")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
# A simulated platform makes TDX quotes: they are read and verified by TDX's own files.
READ_AS = {Platform.INSECURE_SIMULATION: "tdx"}
# Composite Evidence: made by the attesters of its parts.
WITHOUT_ATTESTER = {Platform.AZURE_VTPM, Platform.GCP_VTPM}
REGISTRY_HOSTS = (
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "crates" + ".io",
    "npmjs" + ".",
    "proxy.golang" + ".",
)


def tracked(*suffixes: str) -> list[Path]:
    """Return the tracked files that have one of the suffixes, or all of them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def text(path: Path) -> str:
    """Return the text of a file, empty if it is not text."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def trees(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yield path and syntax tree of each module of the package, or of some of its folders."""
    for path in sorted(SOURCE.rglob("*.py")):
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if not folders or part in folders:
            yield path, ast.parse(path.read_text())


def calls(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted name of each call, as written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func)


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function):
        docstring = function.body[0]
        lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
    return lines


def test_imports_when_checked_against_the_layers_flow_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_packages_when_listed_each_have_a_layer() -> None:
    (layers,) = (
        one["layers"] for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == "layers"
    )
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path, _ in trees()}
    assert {f"securetf.{part}" for part in parts - {"__init__", "__main__"}} == placed


def test_native_module_when_imported_is_imported_by_shields_and_tls_alone() -> None:
    importers = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if any(name.split(".")[-1] == "_core" for name in names):
                importers.add(path.relative_to(SOURCE).parts[0])
    assert importers == {"shields", "tls"}


@pytest.mark.parametrize("folder", PURE)
def test_pure_package_when_it_needs_time_or_files_takes_them_as_arguments(folder: str) -> None:
    clock = re.compile(r"(^|\.)(now|utcnow|today|time|monotonic|open|read_text|read_bytes|urandom)$")
    found = [
        f"{path.name}: {call}()" for path, tree in trees(folder) for call in calls(tree) if clock.search(call)
    ]
    assert not found, f"pure packages take time, files and randomness as arguments: {found}"


def test_verified_claims_when_constructed_are_constructed_by_the_verifier_alone() -> None:
    makers = {
        path.relative_to(SOURCE).parts[0]
        for path, tree in trees()
        for call in calls(tree)
        if call.split(".")[-1] in {"VerifiedClaims", "replace"} and "VerifiedClaims" in path.read_text()
    }
    assert makers == {"verifier"}


@pytest.mark.parametrize("platform", Platform)
def test_platform_when_registered_has_its_file_in_each_stage(platform: Platform) -> None:
    name = platform.value
    assert (SOURCE / "evidence" / f"{READ_AS.get(platform, name)}.py").is_file(), f"no parser for {name}"
    assert (SOURCE / "verifier" / f"{name}.py").is_file(), f"no verifier for {name}"
    attester = (SOURCE / "attester" / f"{name}.py").is_file()
    assert attester != (platform in WITHOUT_ATTESTER), (
        f"attester of {name}: update WITHOUT_ATTESTER or add the file"
    )
    page = ROOT / "docs" / "platforms.md"
    assert f"`[appraisal.{name}]`" in page.read_text(), f"{page.name} has no row for {name}"
    described = f"`securetf.verifier.{name}`" in page.read_text()
    assert described or platform in READ_AS, f"{page.name} does not say what the verifier of {name} does"


def test_files_when_counted_have_fewer_than_400_lines() -> None:
    long = {str(path): len(text(path).splitlines()) for path in tracked(".py", ".rs", ".pyi")}
    assert not {name: lines for name, lines in long.items() if lines >= MAX_FILE_LINES}


def test_functions_when_counted_without_docstring_have_fewer_than_60_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in tracked(".py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) >= MAX_FUNCTION_LINES
    ]
    assert not long


def test_modules_and_public_names_when_read_say_what_they_are() -> None:
    silent = [str(path.relative_to(ROOT)) for path, tree in trees() if not ast.get_docstring(tree)]
    for path, tree in trees():
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not silent


def test_tracked_files_when_searched_hold_no_marks_of_unfinished_work() -> None:
    mark = re.compile(
        r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK|NotImplemented" + r"Error)\b|\b(todo|unimplemented)!"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked(".py", ".rs", ".pyi", ".sh", ".toml", ".md", "")
        for match in mark.finditer(text(path))
    ]
    assert not found


def test_tracked_files_when_searched_name_no_package_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked()
        for host in REGISTRY_HOSTS
        if host
        in text(path).replace("registry+https://github.com/rust-lang/" + REGISTRY_HOSTS[2] + "-index", "")
    ]
    assert not found


def test_crates_when_listed_forbid_unsafe_code_except_where_system_calls_need_it() -> None:
    """The binding, and the three crates that speak to the kernel; there each use is allowed by its module."""
    crates = sorted(path.parent.parent for path in (ROOT / "crates").glob("*/src/lib.rs"))
    lax = {crate.name for crate in crates if "#![forbid(unsafe_code)]" not in text(crate / "src" / "lib.rs")}
    assert lax <= {"core", "confine", "netshield", "volume-fuse"}
    users = {
        str(path.relative_to(ROOT / "crates"))
        for path in (ROOT / "crates").glob("*/src/**/*.rs")
        if re.search(r"\bunsafe (\{|fn|impl)", text(path))
    }
    kernel = {
        "confine/src",
        "netshield/src/supervise",
        "netshield/src/namespace",
        "netshield/src/socket.rs",
        "volume-fuse/src/kernel",
    }
    assert {user for user in users if not {user, str(Path(user).parent)} & kernel} == set()


def test_unsafe_blocks_when_counted_each_have_their_reason() -> None:
    for path in (ROOT / "crates").glob("*/src/**/*.rs"):
        lines = text(path).splitlines()
        for number, line in enumerate(lines):
            if re.search(r"\bunsafe \{", line) and not line.lstrip().startswith("//"):
                before = "\n".join(lines[max(0, number - 8) : number])
                assert "SAFETY:" in before, f"{path.name}:{number + 1}"


def test_runtime_requirements_when_compared_with_the_project_are_the_same() -> None:
    listed = [
        line for line in text(ROOT / "requirements/runtime.in").splitlines() if not line.startswith("#")
    ]
    assert sorted(listed) == sorted(PROJECT["project"]["dependencies"])


def test_locks_when_read_pin_each_package_by_hash_and_name_no_address() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        pins = [line for line in text(lock).splitlines() if re.match(r"[a-z0-9]", line)]
        assert pins
        assert all("==" in pin and pin.endswith("\\") for pin in pins), lock.name
        assert "://" not in text(lock)
        assert "--index-url" not in text(lock)


def test_runtime_dependencies_when_searched_for_are_imported() -> None:
    modules = {
        "dcap-qvl": "dcap_qvl",
        "httptools": r"uvicorn\.protocols\.http\.httptools_impl",  # uvicorn's protocol on it
    }
    source = "\n".join(path.read_text() for path, _ in trees())
    unused = []
    for requirement in PROJECT["project"]["dependencies"]:
        name = re.split(r"[<>=~]", requirement)[0]
        importlib.metadata.version(name)
        if not re.search(rf"^\s*(from|import) {modules.get(name, name)}\b", source, re.MULTILINE):
            unused.append(name)
    assert not unused
