"""The example's data and its customer's arithmetic: the archive is checked, print is not called writing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[3] / "examples" / "document-digitisation"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    return load("prepare_data")


@pytest.fixture(scope="module")
def customer() -> ModuleType:
    return load("read_page")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read: No such file"), (b"PK\3\4", "has the SHA-256 .*, expected")],
)
def test_archive_when_missing_or_another_one_is_not_taken(
    prepare: ModuleType, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "lines.zip").write_bytes(content)
    with pytest.raises(prepare.NotAvailableError, match=reason):
        prepare.from_archive(tmp_path / "lines.zip")


def test_data_when_the_archive_is_not_to_be_had_are_printed_lines_and_that_is_said(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE / "prepare_data.py"), str(tmp_path / "data")]
    command += ["--archive", str(tmp_path / "absent.zip")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "absent.zip cannot be read" in result.stdout
    assert "600 + 60 lines of random letters in a printed font: NOT HANDWRITING" in result.stdout
    rows = (tmp_path / "data" / "labels.tsv").read_text().splitlines()
    assert len(rows) == 660
    assert all((tmp_path / "data" / row.split("\t")[0]).is_file() for row in rows)


def test_rendered_lines_when_drawn_twice_are_the_same_and_differ_by_their_text(prepare: ModuleType) -> None:
    files = prepare.rendered({"train": 3, "test": 2})
    assert files == prepare.rendered({"train": 3, "test": 2})
    assert len({content for name, content in files.items() if name.endswith(".jpg")}) == 5


def test_characters_when_only_a_test_line_has_them_are_not_in_the_table(
    prepare: ModuleType, tmp_path: Path
) -> None:
    labels = 'train/0.jpg\tp\tl"été t\ntest/0.jpg\tq\tzzz\n'
    prepare.write({"labels.tsv": labels.encode()}, tmp_path)
    assert json.loads((tmp_path / "characters.json").read_text(encoding="utf-8")) == [*' "lté']


def test_line_when_the_pencil_is_fainter_and_the_paper_darker_is_the_same_to_the_model(
    customer: ModuleType, tmp_path: Path
) -> None:
    pixels = np.full((48, 300), 230, np.uint8)
    pixels[10:40, 50:60] = 30
    Image.fromarray(pixels).save(tmp_path / "ink.png")
    Image.fromarray((pixels // 4 + 120).astype(np.uint8)).save(tmp_path / "pencil.png")
    ink, pencil = customer.line(tmp_path / "ink.png"), customer.line(tmp_path / "pencil.png")
    assert ink.shape == (32, 200, 1)
    assert np.abs(ink - pencil).max() < 0.15  # of about 6: grey levels are whole numbers
    assert ink[15, 36, 0] > 3  # ink is positive
    assert -1 < ink[15, 150, 0] < 0  # paper is about 0


def test_line_when_longer_than_the_longest_is_squeezed(customer: ModuleType, tmp_path: Path) -> None:
    Image.fromarray(np.full((48, 3000), 200, np.uint8)).save(tmp_path / "long.png")
    assert customer.line(tmp_path / "long.png").shape == (32, 1024, 1)


def test_text_when_decoded_has_repetitions_once_and_blanks_only_between_equal_letters(
    customer: ModuleType,
) -> None:
    path = [0, 1, 1, 2, 0, 2, 2, 0, 0, 1]
    assert customer.text_of(np.eye(3)[path], ["a", "b"]) == "abba"


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("été", "ete", 2), ("same", "same", 0)],
)
def test_distance_when_measured_is_the_fewest_edits(
    customer: ModuleType, one: str, other: str, edits: int
) -> None:
    assert customer.distance(one, other) == customer.distance(other, one) == edits


def test_error_rate_when_counted_is_of_the_lines_that_were_read_alone(
    customer: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "labels.tsv").write_text("test/0.jpg\tp\tabcd\ntest/1.jpg\tp\tabcdef\ntest/2.jpg\tp\txyz\n")
    found = {tmp_path / "test/0.jpg": "abcd", tmp_path / "test/1.jpg": "xbcde"}
    assert customer.error_rate(found, tmp_path / "labels.tsv") == pytest.approx(0.2)
