"""Digits on several workers: MultiWorkerMirroredStrategy with a custom loop, as in any tutorial.

Each worker runs this file; TF_CONFIG tells it who the others are. Each keeps its own checkpoints; a job that
was interrupted goes on from the newest one that all of its workers have.

Usage: python train.py DATA OUTPUT [--epochs N] [--steps N] [--keep-gradients]
"""

import argparse
import time
from pathlib import Path

import keras
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
parser.add_argument("--checkpoint-every", type=int, default=50, metavar="STEPS")
parser.add_argument("--keep-gradients", action="store_true", help="write this worker's last gradients too")
options = parser.parse_args()

# The same seed, deterministic kernels and one order of summation give the same weights, bit by bit.
keras.utils.set_random_seed(SEED)
tf.config.experimental.enable_op_determinism()
ring = tf.distribute.experimental.CommunicationImplementation.RING
strategy = tf.distribute.MultiWorkerMirroredStrategy(
    communication_options=tf.distribute.experimental.CommunicationOptions(implementation=ring)
)
workers = strategy.num_replicas_in_sync

with np.load(options.data / "mnist.npz") as file:
    images, labels = file["x_train"][..., None], file["y_train"].astype("int64")
steps_per_epoch = len(images) // (BATCH * workers) if options.steps is None else options.steps
total_steps = options.epochs * steps_per_epoch

with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")


def dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
    """All workers shuffle all images alike; each takes its share, and goes on where the checkpoint ends."""
    share = (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(images), seed=SEED)
        .shard(context.num_input_pipelines, context.input_pipeline_id)
        .batch(BATCH, drop_remainder=True)
        .repeat()
        .skip(start)
    )
    return share.map(lambda image, label: (tf.cast(image, tf.float32) / 255, label)).prefetch(2)


@tf.function
def train_step(batch):
    def on_worker(batch):
        image, label = batch
        with tf.GradientTape() as tape:
            loss = loss_of(label, model(image, training=True)) / (BATCH * workers)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss, gradients

    loss, gradients = strategy.run(on_worker, args=(batch,))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None), gradients


def newest_of_all(manager: tf.train.CheckpointManager) -> int:
    """Return the step of the newest checkpoint that every worker has, or 0."""
    newest = int(manager.latest_checkpoint.rpartition("-")[2]) if manager.latest_checkpoint else 0

    @tf.function
    def everyones():
        return strategy.gather(strategy.run(lambda: tf.constant([newest])), axis=0)

    return int(tf.reduce_min(everyones()))


options.output.mkdir(parents=True, exist_ok=True)
checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
manager = tf.train.CheckpointManager(checkpoint, options.output / "checkpoints", max_to_keep=3)
start = newest_of_all(manager)
losses_file = options.output / "losses.txt"
losses = []
if start:
    checkpoint.restore(str(options.output / "checkpoints" / f"ckpt-{start}")).assert_consumed()
    losses = losses_file.read_text().splitlines()[:start]
    print(f"going on after step {start}", flush=True)

batches = iter(strategy.distribute_datasets_from_function(dataset))
seconds = []
for number in range(start + 1, total_steps + 1):
    begin = time.perf_counter()
    loss, gradients = train_step(next(batches))
    losses.append(float(loss).hex())
    seconds.append(time.perf_counter() - begin)
    if number % options.checkpoint_every == 0 or number == total_steps:
        losses_file.write_text("\n".join(losses) + "\n")
        manager.save(checkpoint_number=number)
        print(f"step {number} of {total_steps}: loss {float(loss):.6f}", flush=True)

if seconds:
    print(f"{workers} workers, median step {np.median(seconds) * 1000:.2f} ms", flush=True)
model.save_weights(options.output / "digits.weights.h5")
if options.keep_gradients:
    mine = [strategy.experimental_local_results(one)[0].numpy() for one in gradients]
    np.savez(options.output / "gradients.npz", *mine)
