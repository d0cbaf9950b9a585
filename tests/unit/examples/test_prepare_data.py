"""The example's data: digests checked, the same arrays give the same bytes, no MNIST is said aloud."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "mnist" / "prepare_data.py"


@pytest.fixture
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        "x_train": generator.integers(0, 256, (6, 28, 28), "uint8"),
        "y_train": generator.integers(0, 10, 6, "uint8"),
        "x_test": generator.integers(0, 256, (2, 28, 28), "uint8"),
        "y_test": generator.integers(0, 10, 2, "uint8"),
    }


def test_npz_when_written_twice_has_the_same_bytes(prepare: ModuleType, tmp_path: Path) -> None:
    prepare.write_npz(arrays(), tmp_path / "one.npz")
    prepare.write_npz(arrays(), tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz") as file:
        assert all(np.array_equal(file[name], array) for name, array in arrays().items())


def test_idx_when_written_and_read_gives_the_same_array(prepare: ModuleType) -> None:
    images = arrays()["x_train"]
    raw = prepare.to_idx(images)
    assert raw[:8] == bytes([0, 0, 8, 3, 0, 0, 0, 6])
    assert np.array_equal(prepare.from_idx(raw), images)


def test_npz_when_its_arrays_are_not_the_original_ones_is_not_taken(
    prepare: ModuleType, tmp_path: Path
) -> None:
    prepare.write_npz(arrays(), tmp_path / "mnist.npz")
    with pytest.raises(prepare.NotAvailableError, match=r"x_train .* is not the original train-images"):
        prepare.from_npz(tmp_path / "mnist.npz")


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "is not there"), (b"PK\3\4", "not readable as MNIST")]
)
def test_npz_when_missing_or_damaged_is_not_taken(
    prepare: ModuleType, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(prepare.NotAvailableError, match=reason):
        prepare.from_npz(tmp_path / "mnist.npz")


def test_data_when_mnist_is_not_to_be_had_are_digits_and_that_is_said(tmp_path: Path) -> None:
    script = tmp_path / "a" / "b" / "c" / "prepare_data.py"  # ../shared of this copy is not there
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.read_text())
    command = [sys.executable, str(script), str(tmp_path / "data"), "--offline"]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "NOT MNIST: scikit-learn's digits" in result.stdout
    with np.load(tmp_path / "data" / "mnist.npz") as file:
        assert file["x_train"].shape == (1540, 28, 28)
        assert sorted(set(file["y_test"].tolist())) == list(range(10))
