"""The page of attacks names tests that exist, and no attack is missing."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/volume-attacks.md"


def test_page_of_attacks_when_read_names_36_each_with_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 37))
    for number, cell in rows:
        named = re.findall(r"`(\w+\.(?:rs|py)): (test_\w+)`", cell)
        assert named, number
        for file, test in named:
            found = [*ROOT.glob(f"crates/*/tests/{file}"), *ROOT.glob(f"tests/**/{file}")]
            assert any(re.search(rf"(fn|def) {test}\(", path.read_text()) for path in found), (number, test)


def test_attacks_when_tested_in_rust_are_all_on_the_page() -> None:
    for path in ROOT.glob("crates/volume/tests/attacks*.rs"):
        for name in re.findall(r"fn (test_attack_\w+)\(", path.read_text()):
            assert name in PAGE.read_text(), name
