"""An image classifier on JPEG files through `tf.data`, in plain Keras. It knows nothing of securetf."""

import sys
from pathlib import Path

import keras
import tensorflow as tf

data = Path(sys.argv[1] if len(sys.argv) > 1 else "data")
output = Path(sys.argv[2] if len(sys.argv) > 2 else "model")
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 2
images = int(sys.argv[4]) if len(sys.argv) > 4 else 20_000

# The same seed and deterministic kernels give the same weights, bit by bit, on each run.
keras.utils.set_random_seed(7)
tf.config.experimental.enable_op_determinism()

classes = sorted(folder.name for folder in (data / "train").iterdir())


def load(folder: str, limit: int) -> tf.data.Dataset:
    files = sorted(str(file) for file in (data / folder).glob("*/*.jpg"))
    keep = [files[i * len(files) // limit] for i in range(limit)]  # evenly, so that each class has its share
    labels = [classes.index(Path(file).parent.name) for file in keep]
    dataset = tf.data.Dataset.from_tensor_slices((keep, labels))
    if folder == "train":
        dataset = dataset.shuffle(len(keep), seed=7)

    def read(file, label):
        image = tf.io.decode_jpeg(tf.io.read_file(file), channels=3)
        return tf.ensure_shape(tf.cast(image, tf.float32) / 255, (32, 32, 3)), label

    return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(100).prefetch(tf.data.AUTOTUNE)


model = keras.Sequential(
    [
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(32, 5, strides=2, activation="relu"),
        keras.layers.Conv2D(64, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(0.001), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
)
model.fit(load("train", images), epochs=epochs, shuffle=False, verbose=2)
loss, accuracy = model.evaluate(load("test", 2_000), verbose=0)
print(f"test accuracy {accuracy:.4f}, test loss {loss:.6f}")

output.mkdir(parents=True, exist_ok=True)
model.save(output / "images.keras")
model.save_weights(output / "images.weights.h5")
