"""Writes the images of `mnist.npz` as TFRecord, which each worker reads with TensorFlow's own operations.

Usage: python prepare_data.py MNIST_NPZ DIRECTORY
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def example(image: np.ndarray, label: int) -> bytes:
    """Return one image as tf.train.Example: `image`, 784 bytes, and `label`."""
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def main() -> None:
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    with np.load(sys.argv[1]) as file:
        for name in ("train", "test"):
            with tf.io.TFRecordWriter(str(target / f"{name}.tfrecord")) as writer:
                for image, label in zip(file[f"x_{name}"], file[f"y_{name}"], strict=True):
                    writer.write(example(image, int(label)))


if __name__ == "__main__":
    main()
