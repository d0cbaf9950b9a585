"""The engine for .tflite files against LiteRT's own interpreter: the same bits by each of its ways."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from securetf.serving.engines import litert
from securetf.serving.engines.litert_c import Compiled, UnsupportedError

MODELS = Path(__file__).parent / "models"
DEFAULT = "serving_default"


def engine(model: str):
    return litert.load(MODELS / f"{model}.tflite", workers=1, threads=1, read=Path.read_bytes)[0]


def by_interpreter(model: str, inputs):
    return Interpreter(str(MODELS / f"{model}.tflite")).get_signature_runner(DEFAULT)(**inputs)


def values(*shape: int):
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def compiled(model: str, rows: int = 1) -> Compiled:
    return Compiled(
        (MODELS / f"{model}.tflite").read_bytes(),
        1,
        {"x": np.zeros((1, 4), np.float32)},
        {"y": values(rows, 3)},
    )


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape, one[name].tobytes())
        == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name in other
    )


def test_compiled_model_when_it_computes_gives_the_interpreters_bits() -> None:
    for seed in range(20):
        given = {"x": np.random.default_rng(seed).standard_normal((1, 4)).astype(np.float32)}
        assert same(compiled("small1").run(given), by_interpreter("small1", given))


def test_compiled_model_when_it_computes_again_leaves_earlier_answers() -> None:
    model = compiled("small1")
    first = model.run({"x": values(1, 4)})
    kept = first["y"].copy()
    assert model.run({"x": -values(1, 4)})["y"].tobytes() != kept.tobytes()
    assert first["y"].tobytes() == kept.tobytes()


def test_engine_when_shapes_change_and_change_back_gives_the_interpreters_bits() -> None:
    found = engine("small1")
    found.prepare()
    for rows in (1, 3, 1, 2):
        given = {"x": values(rows, 4)}
        assert same(found.infer(DEFAULT, given), by_interpreter("small1", given))


def test_engine_when_a_model_has_several_inputs_and_outputs_confuses_none() -> None:
    found = engine("difference")
    found.prepare()
    a, b = values(1, 4), np.float32([[100, 200, 300, 400]])
    for given in ({"a": a, "b": b}, {"b": a, "a": b}):
        answer = found.infer(DEFAULT, given)
        assert np.array_equal(answer["less"], given["a"] - given["b"])
        assert np.array_equal(answer["more"], a + b)


def test_engine_when_the_number_of_answers_depends_on_values_gives_all_of_them() -> None:
    found = engine("positive")
    found.prepare()
    for given, places in (([1.0], [0]), ([-1.0], []), ([1.0, -1.0, 2.0], [0, 2]), ([5.0], [0])):
        answer = found.infer(DEFAULT, {"x": np.float32(given)})["where"]
        assert answer.tolist() == places


def test_compiled_model_when_the_number_of_answers_depends_on_values_is_refused() -> None:
    """There is memory for one, and LiteRT says nothing of how many there are."""
    with pytest.raises(UnsupportedError, match="not by XNNPACK alone"):
        Compiled(
            (MODELS / "positive.tflite").read_bytes(),
            1,
            {"x": np.zeros(1, np.float32)},
            {"where": np.zeros(1, np.int64)},
        )


def test_compiled_model_when_outputs_are_larger_than_their_memory_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"other shapes: \[\(1, 3\)\]"):
        compiled("small1", rows=2)


@pytest.mark.parametrize("tensor", [np.array([["text"]]), np.zeros((0, 4), np.float32), np.zeros([1] * 9)])
def test_compiled_model_when_a_tensor_is_not_of_a_fixed_size_is_refused(tensor) -> None:
    with pytest.raises(UnsupportedError, match=f"a tensor of {tensor.dtype}"):
        Compiled((MODELS / "small1.tflite").read_bytes(), 1, {"x": tensor}, {"y": values(1, 3)})


@pytest.mark.parametrize("content", [b"", b"no FlatBuffer", bytes(2000)])
def test_compiled_model_when_the_file_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(UnsupportedError, match="LiteRtStatus"):
        Compiled(content, 1, {"x": np.zeros((1, 4), np.float32)}, {"y": values(1, 3)})


def test_engines_when_litert_would_not_compile_for_one_do_not_ask_again(monkeypatch) -> None:
    asked = []

    def refusing(*given):
        asked.append(given)
        raise UnsupportedError("no")

    monkeypatch.setattr(litert, "Compiled", refusing)
    engines = litert.load(MODELS / "small1.tflite", workers=3, threads=1, read=Path.read_bytes)
    given = {"x": values(1, 4)}
    for one in engines:
        one.prepare()
        assert same(one.infer(DEFAULT, given), by_interpreter("small1", given))
    assert len(asked) == 1
