"""Digits with parameter servers: ParameterServerStrategy and ClusterCoordinator, as in any tutorial.

Every task of the cluster runs this file; TF_CONFIG tells it which one it is. The parameter servers keep the
variables, the workers compute gradients, the chief gives out steps, evaluates and saves. Training is
asynchronous, so two runs give similar and not equal weights.

Usage: python train.py DATA OUTPUT [--epochs N] [--steps N]
"""

import argparse
import os
import time
from pathlib import Path

# A worker that is lost and comes back is then another one, and not an error of the whole job.
os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")

import keras
import numpy as np
import tensorflow as tf

BATCH = 100  # of each step
LEARNING_RATE = 0.0005
SEED = 7

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path, help="directory with train.tfrecord and test.tfrecord")
parser.add_argument("output", type=Path, help="directory of the chief: checkpoints, losses and weights")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--steps", type=int, default=600, help="steps of an epoch, of all workers together")
options = parser.parse_args()

cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
if cluster.task_type in ("worker", "ps"):
    server = tf.distribute.Server(
        cluster.cluster_spec(), job_name=cluster.task_type, task_index=cluster.task_id, protocol="grpc"
    )
    print(f"{cluster.task_type} {cluster.task_id} is ready", flush=True)
    server.join()  # until it is stopped, when the chief has ended

tf.get_logger().setLevel("INFO")  # says when a worker is lost and when it is back
keras.utils.set_random_seed(SEED)
strategy = tf.distribute.ParameterServerStrategy(cluster)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

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
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def parsed(record):
    """Return image, 28 by 28 by 1 from 0 to 1, and label."""
    fields = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    one = tf.io.parse_single_example(record, fields)
    image = tf.reshape(tf.io.decode_raw(one["image"], tf.uint8), (28, 28, 1))
    return tf.cast(image, tf.float32) / 255, one["label"]


def dataset() -> tf.data.Dataset:
    """Each worker reads all images, in an order of its own."""
    records = tf.data.TFRecordDataset(str(options.data / "train.tfrecord"))
    return records.shuffle(10_000).repeat().map(parsed).batch(BATCH).prefetch(2)


@tf.function
def train_step(batches):
    def on_worker(batch):
        image, label = batch
        with tf.GradientTape() as tape:
            loss = loss_of(label, model(image, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return strategy.run(on_worker, args=(next(batches),))


@tf.function
def correct(image, label):
    """Return for each of these images whether the model tells it rightly."""
    return tf.argmax(model(image), axis=-1) == label


@tf.function
def batches_of_worker():
    return strategy.distribute_datasets_from_function(lambda _: dataset())


options.output.mkdir(parents=True, exist_ok=True)
on_chief = tf.train.CheckpointOptions(experimental_io_device="/job:chief/replica:0/task:0/device:CPU:0")
checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
manager = tf.train.CheckpointManager(checkpoint, options.output / "checkpoints", max_to_keep=3)
losses_file = options.output / "losses.txt"
losses, first_epoch = [], 1
if manager.latest_checkpoint:
    checkpoint.restore(manager.latest_checkpoint, options=on_chief).assert_consumed()
    first_epoch = int(manager.latest_checkpoint.rpartition("-")[2]) + 1
    losses = losses_file.read_text().splitlines()[: first_epoch - 1]
    print(f"going on with epoch {first_epoch}", flush=True)

batches = iter(coordinator.create_per_worker_dataset(batches_of_worker))
for epoch in range(first_epoch, options.epochs + 1):
    begin = time.perf_counter()
    results = [coordinator.schedule(train_step, args=(batches,)) for _ in range(options.steps)]
    coordinator.join()
    seconds = time.perf_counter() - begin
    losses.append(float(np.mean(coordinator.fetch(results))).hex())
    losses_file.write_text("\n".join(losses) + "\n")
    manager.save(checkpoint_number=epoch, options=on_chief)
    step_ms = seconds / options.steps * 1000
    print(f"epoch {epoch}: loss {float.fromhex(losses[-1]):.6f}, {step_ms:.2f} ms a step", flush=True)

test = tf.data.TFRecordDataset(str(options.data / "test.tfrecord")).map(parsed).batch(500)
right = [coordinator.schedule(correct, args=batch) for batch in test]
coordinator.join()
print(f"test accuracy {np.mean(np.concatenate(coordinator.fetch(right))):.4f}", flush=True)
model.save_weights(options.output / "digits.weights.h5")
