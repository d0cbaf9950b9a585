"""The page of refusals names tests that exist and look at the reason, and messages that the code has."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/evidence-refusals.md"
SECTIONS = {
    "Framing": 11,
    "Signatures and certificates": 13,
    "Collateral": 10,
    "TCB": 8,
    "Configuration": 9,
    "Measurement": 4,
    "Freshness and binding": 11,
    "Release": 9,
    "Availability": 4,
    "Traps": 6,
}
# How a test looks at a reason, and not only at there being a refusal; or at claims, of what must work.
LOOKS = re.compile(
    r"match=|\.problem\b|in failed\(|re\.search|tcb_status|== collateral|== quote|serial_number"
)


def rows() -> list[tuple[str, str, str, str]]:
    """Return section, attack, what is said, and tests of each row."""
    found = []
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title = re.split(r":|,| by ", section.splitlines()[0])[0]
        for line in section.splitlines():
            cells = line.strip("| ").split(" | ")
            if line.startswith("| ") and len(cells) == 3 and cells[2] != "test":
                found.append((title, *cells))
    return found


@cache
def functions(file: str) -> dict[str, str]:
    """Return the source of each test in a file that the page names; there must be one such file."""
    (path,) = (one for one in ROOT.glob("tests/**/*.py") if str(one).endswith(f"/{file}"))
    text = path.read_text()
    return {
        node.name: ast.get_source_segment(text, node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_page_of_refusals_when_read_has_each_section_with_all_of_its_rows() -> None:
    titles = [title for title, *_ in rows()]
    assert {title: titles.count(title) for title in dict.fromkeys(titles)} == SECTIONS


def test_page_of_refusals_when_read_names_tests_that_exist_and_look_at_the_reason() -> None:
    for _, what, _, cell in rows():
        named = re.findall(r"`([\w/]+\.py): (test_\w+)`", cell)
        assert named, what
        assert len(named) == cell.count("`") // 2, what
        for file, test in named:
            assert test in functions(file), (what, file, test)
            assert LOOKS.search(functions(file)[test]), (what, file, test)


def words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]{3,}", text))


def literals() -> list[set[str]]:
    """Return the words of each text in the code that is no docstring, without what an f-string puts in."""
    found = []
    for path in (ROOT / "src/securetf").rglob("*.py"):
        tree = ast.parse(path.read_text())
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [one.value for one in parts if isinstance(one, ast.Constant) and id(one) not in documents]
            found.append(words(" ".join(text for text in texts if isinstance(text, str))))
    return [one for one in found if one]


def test_page_of_refusals_when_it_quotes_a_message_then_the_code_has_one_of_these_words() -> None:
    """Two thirds of the words in one text of the code; the rest may be what is put in."""
    known = literals()
    for _, what, said, _ in rows():
        for message in re.findall(r"`([^`]+)`", said):
            wanted = words(re.sub(r"STF-\d+|'[^']*'", "", message))
            best = max(len(wanted & one) for one in known)
            assert 3 * best >= 2 * len(wanted), (what, message)
