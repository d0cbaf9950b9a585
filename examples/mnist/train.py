"""A digit classifier in plain Keras, as in any tutorial. It knows nothing of securetf."""

import sys
from pathlib import Path

import keras
import tensorflow as tf

output = Path(sys.argv[1] if len(sys.argv) > 1 else "model")
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 3

# The same seed and deterministic kernels give the same weights, bit by bit, on each run.
keras.utils.set_random_seed(7)
tf.config.experimental.enable_op_determinism()

(x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
x_train = x_train[..., None].astype("float32") / 255
x_test = x_test[..., None].astype("float32") / 255

model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(0.0005), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
)
model.fit(x_train, y_train, batch_size=100, epochs=epochs, verbose=2)
loss, accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0)
print(f"test accuracy {accuracy:.4f}, test loss {loss:.6f}")

output.mkdir(parents=True, exist_ok=True)
model.save(output / "digits.keras")
model.save_weights(output / "digits.weights.h5")
