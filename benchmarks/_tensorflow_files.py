"""Reads TFRecords by `tf.data` and saves checkpoints where it is told: the program of `volume_workloads.py`.

argv[1]: JSON {records, images, variable_mib}. For each line of stdin, {"do": NAME, "at": DIRECTORY}, one line
on stdout: the seconds that it took, as JSON. "make" writes the files, "parse" and "decode" are one epoch each
over what it wrote, "save" writes a checkpoint, "keep" does and syncs its files.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

FILES = 8
RECORD = 16 << 10  # bytes of a plain record
SIDE = 224  # pixels of an image
BATCH = 64
VARIABLES = 16


class Files:
    """What there is of records and variables, the same for each directory."""

    def __init__(self, records: int, images: int, variable_mib: int) -> None:
        self._records, self._images = records, images
        shape = [variable_mib << 20 >> 2]
        self._checkpoint = tf.train.Checkpoint(
            **{f"v{number}": tf.Variable(tf.random.uniform(shape)) for number in range(VARIABLES)}
        )
        self._managers: dict[str, tf.train.CheckpointManager] = {}

    def make(self, at: Path) -> None:
        block = random.Random(7).randbytes(RECORD * 2)
        _write(at, "plain", (block[number % RECORD :][:RECORD] for number in range(self._records)))
        _write(at, "image", _images(self._images))

    def parse(self, at: Path) -> None:
        seen = _epoch(at, "plain", lambda one: tf.strings.length(_content(one)))
        _demand(seen == self._records * RECORD, at)

    def decode(self, at: Path) -> None:
        def size(one: Any) -> Any:
            return tf.size(tf.io.decode_jpeg(_content(one), channels=3))

        _demand(_epoch(at, "image", size) == self._images * SIDE * SIDE * 3, at)

    def save(self, at: Path) -> None:
        manager = self._managers.get(str(at))
        if manager is None:
            manager = tf.train.CheckpointManager(self._checkpoint, str(at / "saved"), max_to_keep=2)
            self._managers[str(at)] = manager
        manager.save()

    def keep(self, at: Path) -> None:
        """Save, so that a crash of the machine loses nothing of it."""
        self.save(at)
        for written in [*(at / "saved").iterdir(), at / "saved"]:
            descriptor = os.open(written, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _demand(whole: bool, at: Path) -> None:
    if not whole:
        raise SystemExit(f"the records at {at} are not those that were written")


def _images(count: int) -> Iterator[bytes]:
    """JPEG images of about 20 kB: a few dozen different ones."""
    noise = [tf.random.stateless_uniform([28, 28, 3], [one, 5], maxval=255) for one in range(32)]
    large = [tf.cast(tf.image.resize(one, [SIDE, SIDE]), tf.uint8) for one in noise]
    encoded = [tf.io.encode_jpeg(one, quality=95).numpy() for one in large]
    for number in range(count):
        yield encoded[number % len(encoded)]


def _write(at: Path, kind: str, contents: Iterator[bytes]) -> None:
    writers = [tf.io.TFRecordWriter(str(at / f"{kind}-{number}.tfrecord")) for number in range(FILES)]
    for number, content in enumerate(contents):
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
        example = tf.train.Example(features=tf.train.Features(feature={"content": feature}))
        writers[number % FILES].write(example.SerializeToString())
    for writer in writers:
        writer.close()


def _content(serialised: Any) -> Any:
    return tf.io.parse_single_example(serialised, {"content": tf.io.FixedLenFeature([], tf.string)})[
        "content"
    ]


def _epoch(at: Path, kind: str, size: Callable[[Any], Any]) -> int:
    names = sorted(str(one) for one in at.glob(f"{kind}-*.tfrecord"))
    records = tf.data.TFRecordDataset(names, num_parallel_reads=tf.data.AUTOTUNE)
    batches = records.map(size, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    total = batches.reduce(
        tf.constant(0, tf.int64), lambda sum_, one: sum_ + tf.reduce_sum(tf.cast(one, tf.int64))
    )
    return int(total.numpy())


def main() -> None:
    files = Files(**json.loads(sys.argv[1]))
    print(json.dumps(tf.__version__), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        begin = time.perf_counter()
        getattr(files, order["do"])(Path(order["at"]))
        print(json.dumps(time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
