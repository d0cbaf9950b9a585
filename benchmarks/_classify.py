"""The program that is measured: classifies images with LiteRT, as anybody would write it. Knows nothing of
securetf.

argv: model, images (.npy, uint8), rounds, threads. It prints JSON: ms of each image's classification,
the time until the first one was done, and the SHA-256 of all outputs.
"""

import hashlib
import json
import sys
import time

begin = time.monotonic()
import numpy as np  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402


def main() -> None:
    model, images_file, rounds, threads = sys.argv[1:]
    interpreter = Interpreter(model_path=model, num_threads=int(threads))
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    times, digest, first = [], hashlib.sha256(), 0.0
    for _ in range(int(rounds)):
        for image in np.load(images_file, mmap_mode="r"):
            started = time.perf_counter()
            interpreter.set_tensor(given["index"], (image[None] / 255).astype(np.float32))
            interpreter.invoke()
            digest.update(interpreter.get_tensor(answer["index"]).tobytes())
            times.append((time.perf_counter() - started) * 1000)
            first = first or time.monotonic() - begin
    print(json.dumps({"ms": times, "first_s": first, "sha256": digest.hexdigest()}))


if __name__ == "__main__":
    main()
