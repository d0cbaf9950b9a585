"""Models for the benchmarks of inference: made once by TensorFlow in a process of its own, kept in
results/models.

Weights are random (`weights=None`): latency and size need no trained ones. DenseNet121, InceptionV3 and
InceptionResNetV2 stand in for the paper's DenseNet (42 MB), Inception-v3 (91 MB) and Inception-v4 (163 MB).
"""

import os
import subprocess
import sys
from pathlib import Path

from _report import RESULTS

FOLDER = RESULTS / "models"
SIZES = {  # name → input (height, width)
    "probe": 224,
    "cifar": 32,
    "MobileNetV2": 224,
    "DenseNet121": 224,
    "InceptionV3": 299,
    "InceptionResNetV2": 299,
}
_MAKE = """
import sys, keras, tensorflow as tf
name, size, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
keras.utils.set_random_seed(1)
layers = keras.layers
small = {
    "probe": lambda: [layers.AveragePooling2D(32), layers.Flatten(), layers.Dense(10)],
    "cifar": lambda: [layers.Conv2D(32, 3, activation="relu"), layers.Conv2D(64, 3, activation="relu"),
                      layers.MaxPool2D(4), layers.Flatten(), layers.Dense(10)],
}
if name in small:
    model = keras.Sequential([layers.Input((size, size, 3), name="image"), *small[name]()])
else:
    model = getattr(keras.applications, name)(weights=None)
model.export(f"{folder}/{name}.saved", verbose=False)
content = tf.lite.TFLiteConverter.from_saved_model(f"{folder}/{name}.saved").convert()
open(f"{folder}/{name}.partial", "wb").write(content)
"""


def litert(name: str) -> Path:
    """Return the .tflite file of a model; `saved_model` of the same name is made with it."""
    target = FOLDER / f"{name}.tflite"
    if not target.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        print(f"making {name}", flush=True)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, "-c", _MAKE, name, str(SIZES[name]), str(FOLDER)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        (FOLDER / f"{name}.partial").rename(target)
    return target


def saved_model(name: str) -> Path:
    """Return the SavedModel of a model."""
    litert(name)
    return FOLDER / f"{name}.saved"
