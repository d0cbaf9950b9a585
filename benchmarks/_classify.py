"""The program that is measured: classifies images with LiteRT, as anybody would write it, in turns with
another one. Knows nothing of securetf.

argv: model, images (.npy, uint8), threads, turns, which, go. It says `ready` once each image was classified
once, and waits for the file `go`, which holds a time on CLOCK_BOOTTIME, the length of a turn, and who begins.
Of the turns that begin then, one after the other, it works in every second one, from the first on if it is
the one of `which` that begins. It prints JSON: for each of its `turns` the median of the images' ms and the
processor time of one image in ms, and the SHA-256 of the first outputs.
"""

import hashlib
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    model, images_file, threads, turns, which, go = sys.argv[1:]
    interpreter = Interpreter(model_path=model, num_threads=int(threads))
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def classify(image: np.ndarray) -> bytes:
        interpreter.set_tensor(given["index"], (image[None] / 255).astype(np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"]).tobytes()

    digest = hashlib.sha256()
    for image in np.load(images_file, mmap_mode="r"):
        digest.update(classify(image))
    images = (image for _ in itertools.count() for image in np.load(images_file, mmap_mode="r"))
    print("ready", flush=True)
    while not Path(go).exists():
        time.sleep(0.01)
    begin, length, first = map(float, Path(go).read_text().split())
    found = []
    for turn in range(int(int(which) != first), 2 * int(turns), 2):
        time.sleep(max(0.0, begin + turn * length - _now()))
        taken, cpu, until = [], time.process_time(), begin + (turn + 1) * length
        while not taken or _now() + taken[-1] < until:
            started = _now()
            classify(next(images))
            taken.append(_now() - started)
        cpu = (time.process_time() - cpu) / len(taken)
        found.append((statistics.median(taken) * 1000, cpu * 1000))
    print(json.dumps({"turns": found, "sha256": digest.hexdigest()}))


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    main()
