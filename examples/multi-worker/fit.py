"""Digits on several workers with `fit`: MultiWorkerMirroredStrategy, as in any tutorial.

`fit` under this strategy needs Keras 2: the package `tf_keras`, and TF_USE_LEGACY_KERAS=1 in the environment.
Each worker runs this file; TF_CONFIG tells it who the others are.

Usage: TF_USE_LEGACY_KERAS=1 python fit.py DATA OUTPUT [--epochs N] [--steps N]
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf

BATCH = 100  # of each worker
LEARNING_RATE = 0.0005
SEED = 7

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path, help="directory with mnist.npz")
parser.add_argument("output", type=Path, help="directory of this worker: checkpoints, losses and weights")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--steps", type=int, help="steps of an epoch; without it, all images")
options = parser.parse_args()

# The same seed, deterministic kernels and one order of summation give the same weights, bit by bit.
tf.keras.utils.set_random_seed(SEED)
tf.config.experimental.enable_op_determinism()
ring = tf.distribute.experimental.CommunicationImplementation.RING
strategy = tf.distribute.MultiWorkerMirroredStrategy(
    communication_options=tf.distribute.experimental.CommunicationOptions(implementation=ring)
)
workers = strategy.num_replicas_in_sync

with np.load(options.data / "mnist.npz") as file:
    images, labels = file["x_train"][..., None], file["y_train"].astype("int64")

sharding = tf.data.Options()
sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
dataset = (
    tf.data.Dataset.from_tensor_slices((images, labels))
    .shuffle(len(images), seed=SEED)
    .batch(BATCH * workers, drop_remainder=True)
    .repeat()
    .map(lambda image, label: (tf.cast(image, tf.float32) / 255, label))
    .with_options(sharding)
)

with strategy.scope():
    model = tf.keras.Sequential(
        [
            tf.keras.Input((28, 28, 1)),
            tf.keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
            tf.keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=tf.keras.optimizers.Adam(LEARNING_RATE),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

options.output.mkdir(parents=True, exist_ok=True)
checkpoints = str(options.output / "checkpoints" / "epoch-{epoch}.weights.h5")
history = model.fit(
    dataset,
    epochs=options.epochs,
    steps_per_epoch=options.steps or len(images) // (BATCH * workers),
    callbacks=[tf.keras.callbacks.ModelCheckpoint(checkpoints, save_weights_only=True)],
    verbose=2,
)
(options.output / "losses.txt").write_text("\n".join(loss.hex() for loss in history.history["loss"]) + "\n")
model.save_weights(options.output / "digits.weights.h5")
