"""Saves (argv[1] "write") or loads ("read") in each of TensorFlow's formats below the directory argv[2]."""

import sys
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf


def model() -> tf.keras.Model:
    tf.keras.utils.set_random_seed(1)
    layers = [tf.keras.layers.Input((16,)), tf.keras.layers.Dense(64, "relu"), tf.keras.layers.Dense(3)]
    return tf.keras.Sequential(layers)


def inputs() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((32, 16)).astype("float32")


def squares(root: Path, factor: int) -> tf.data.Dataset:
    """Squares times `factor`, or what the cache in `root` holds."""
    source = tf.data.Dataset.range(1000).map(lambda number: number * number * factor)
    return source.cache(str(root / "cache"))


def write(root: Path) -> None:
    made = model()
    made.compile("adam", "mse")
    callbacks = [
        tf.keras.callbacks.CSVLogger(root / "log.csv", append=True),
        tf.keras.callbacks.ModelCheckpoint(root / "epoch-{epoch}.weights.h5", save_weights_only=True),
        tf.keras.callbacks.BackupAndRestore(root / "backup"),
    ]
    made.fit(inputs(), np.zeros((32, 3), "float32"), epochs=2, verbose=0, callbacks=callbacks)
    made.save(root / "model.keras")
    made.save(root / "model.h5")
    made.export(root / "saved", verbose=False)
    tf.train.Checkpoint(model=made).save(root / "checkpoint" / "ckpt")
    with tf.io.TFRecordWriter(str(root / "data.tfrecord")) as records:
        for number in range(5000):
            records.write(str(number).encode() * 20)
    assert list(squares(root, 1).as_numpy_iterator()) == [number**2 for number in range(1000)]
    with h5py.File(root / "array.h5", "w") as file:
        file["array"] = np.arange(300_000)
    np.save(root / "expected.npy", made(inputs()).numpy())
    np.save(root / "mapped.npy", np.arange(100_000))


def read(root: Path) -> None:
    expected = np.load(root / "expected.npy")
    for name in ("model.keras", "model.h5"):
        loaded = tf.keras.models.load_model(root / name, compile=False)
        assert np.array_equal(loaded(inputs()).numpy(), expected), name
    saved = tf.saved_model.load(str(root / "saved"))
    assert np.allclose(saved.serve(inputs()).numpy(), expected)
    restored = model()
    newest = tf.train.latest_checkpoint(root / "checkpoint")
    tf.train.Checkpoint(model=restored).restore(newest).assert_existing_objects_matched()
    assert np.array_equal(restored(inputs()).numpy(), expected)
    records = list(tf.data.TFRecordDataset(str(root / "data.tfrecord")).as_numpy_iterator())
    assert records == [str(number).encode() * 20 for number in range(5000)]
    cached = squares(root, 0)  # zeros, if they did not come from the cache
    assert list(cached.as_numpy_iterator()) == [number**2 for number in range(1000)]
    with h5py.File(root / "array.h5") as file:
        assert int(file["array"][:].sum()) == 299_999 * 150_000
    assert int(np.load(root / "mapped.npy", mmap_mode="r").sum()) == 99_999 * 50_000
    assert len((root / "log.csv").read_text().splitlines()) == 3
    restored.load_weights(root / "epoch-2.weights.h5")
    assert np.array_equal(restored(inputs()).numpy(), expected)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
