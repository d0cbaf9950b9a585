"""TensorFlow's formats: converted with proof, and served as they are."""

import importlib
import json

import numpy as np
import pytest

from securetf.cli import call
from securetf.serving import convert as converting
from securetf.serving.engines import load
from securetf.serving.errors import ConversionError, ModelLoadError

pytestmark = pytest.mark.tensorflow
X = np.random.default_rng(9).standard_normal((6, 4)).astype(np.float32)


@pytest.mark.parametrize("precision", ["float32", "dynamic-range"])
def test_model_when_converted_answers_as_its_source_on_the_given_inputs(
    sources, tmp_path, capsys, precision
) -> None:
    np.save(tmp_path / "x.npy", X)
    for kind, source in (
        ("keras", sources / "file" / "1" / "model.keras"),
        ("saved", sources / "saved" / "1"),
    ):
        target = tmp_path / kind / "2" / "model.tflite"
        arguments = [
            "convert",
            source,
            target,
            "--precision",
            precision,
            "--inputs",
            tmp_path / "x.npy",
            "--json",
        ]
        assert call([str(one) for one in arguments]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        (wanted,) = load(source, workers=1, threads=1)[0].infer("serving_default", {"x": X}).values()
        (found,) = load(target, workers=1, threads=1)[0].infer("serving_default", {"x": X}).values()
        assert np.abs(wanted - found).max() <= said["difference"] * np.abs(wanted).max() + 1e-12
        assert (said["checked"], said["size_bytes"]) == (6, target.stat().st_size)
        assert [one.name for one in target.parent.iterdir()] == ["model.tflite"]


def test_model_when_the_result_differs_too_much_is_not_written(tmp_path) -> None:
    keras = importlib.import_module("keras")
    keras.utils.set_random_seed(3)
    source, target = tmp_path / "model.keras", tmp_path / "made" / "model.tflite"
    # 4,096 weights: the converter leaves fewer than 1,024 as they are, and then nothing differs.
    keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(64)]).save(source)
    with pytest.raises(ConversionError, match="differs from its source by"):
        converting.convert(source, target, precision="dynamic-range", inputs=None, tolerance=0.0)
    assert list(target.parent.iterdir()) == []


def test_file_when_it_is_no_model_is_refused_by_each_engine(tmp_path) -> None:
    for name in ("model.keras", "model.tflite"):
        (tmp_path / name).write_bytes(b"PK no model")
        with pytest.raises(ModelLoadError, match="is not a model that"):
            load(tmp_path / name, workers=1, threads=1)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(ModelLoadError, match="is not a model that TensorFlow can load"):
        load(tmp_path, workers=1, threads=1)


def test_keras_file_and_saved_model_when_served_give_the_engines_bits(sources, tensorflow_served) -> None:
    for model, path in (("file", "model.keras"), ("saved", "")):
        (wanted,) = (
            load(sources / model / "1" / path, workers=1, threads=1)[0]
            .infer("serving_default", {"x": X})
            .values()
        )
        status, found = tensorflow_served.json(
            "POST", f"/v1/models/{model}:predict", {"instances": X.tolist()}
        )
        assert status == 200
        assert np.array(found["predictions"], np.float32).tobytes() == wanted.tobytes()


def test_saved_model_when_only_the_first_loader_reads_it_is_served(sources, monkeypatch) -> None:
    """As basic-pitch's, at which TensorFlow 2's loader fails; benchmarks/packaged_models.py serves it."""
    from securetf.serving.engines import tensorflow as engine  # noqa: PLC0415

    (wanted,) = (
        load(sources / "saved" / "1", workers=1, threads=1)[0].infer("serving_default", {"x": X}).values()
    )

    def fails(*_):
        raise AttributeError("'_UserObject' object has no attribute 'add_slot'")

    monkeypatch.setattr(engine, "_second", fails)
    (found,) = (
        load(sources / "saved" / "1", workers=1, threads=1)[0].infer("serving_default", {"x": X}).values()
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
