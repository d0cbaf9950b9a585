"""The program that `scaling.py` measures: classifies a batch of images again and again within a window of
time. Knows nothing of securetf.

argv: model, images (.npy, uint8), begin, end, both on CLOCK_BOOTTIME. All programs of one measurement have
the same window. It prints JSON: the images classified in it, and the SHA-256 of the first batch's outputs.
"""

import hashlib
import json
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    model, images_file, begin, end = sys.argv[1:]
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def classify(image: np.ndarray) -> bytes:
        interpreter.set_tensor(given["index"], (image[None] / 255).astype(np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"]).tobytes()

    digest = hashlib.sha256()
    for image in np.load(images_file, mmap_mode="r"):
        digest.update(classify(image))
    wait = float(begin) - time.clock_gettime(time.CLOCK_BOOTTIME)
    if wait < 0:
        raise SystemExit(f"ready {-wait:.1f} s after the window began")
    time.sleep(wait)
    done, until = 0, float(end)
    while True:
        for image in np.load(images_file, mmap_mode="r"):
            classify(image)
            if time.clock_gettime(time.CLOCK_BOOTTIME) >= until:
                print(json.dumps({"images": done, "sha256": digest.hexdigest()}))
                return
            done += 1


if __name__ == "__main__":
    main()
