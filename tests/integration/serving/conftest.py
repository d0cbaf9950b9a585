"""One service for all tests that only ask, and one that runs TensorFlow, which takes its time to start."""

import importlib

import pytest

from support.service import put, serving


@pytest.fixture(scope="package")
def served(tmp_path_factory):
    repository = tmp_path_factory.mktemp("serving") / "models"
    for model, file in (("small", "small1"), ("pair", "pair"), ("spin", "spin")):
        put(repository, model, 1, file)
    with serving(repository, "--label", "small:stable=1") as found:
        yield found


@pytest.fixture(scope="package")
def sources(tmp_path_factory):
    """A repository: one Keras model as .keras file and as SavedModel, and one of version 1 that reads
    Examples.
    """
    tf, keras = importlib.import_module("tensorflow"), importlib.import_module("keras")
    folder = tmp_path_factory.mktemp("sources") / "models"
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Input((4,), name="x"),
        keras.layers.Dense(64, "relu"),
        keras.layers.Dense(3, "softmax"),
    ]
    model = keras.Sequential(layers)
    for name in ("file", "saved"):
        (folder / name / "1").mkdir(parents=True)
    model.save(folder / "file" / "1" / "model.keras")
    model.export(folder / "saved" / "1", verbose=False)
    write_example_model(tf, folder / "examples" / "1")
    return folder


@pytest.fixture(scope="package")
def tensorflow_served(sources):
    with serving(sources, "--workers", "1") as found:
        yield found


def write_example_model(tf, folder) -> None:
    """Write a SavedModel with the signatures `classify` and `regress` over serialized Examples."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, (None,), name="examples")
        values = v1.io.parse_example(serialized, {"f": v1.io.FixedLenFeature((2,), tf.float32)})["f"]
        classes = tf.tile(tf.constant([["first", "second"]]), [tf.shape(values)[0], 1])
        info = v1.saved_model.build_tensor_info
        build = v1.saved_model.build_signature_def
        inputs = {"inputs": info(serialized)}
        total = info(tf.reduce_sum(values, axis=1))
        signatures = {
            "classify": build(
                inputs, {"classes": info(classes), "scores": info(values)}, "tensorflow/serving/classify"
            ),
            "regress": build(inputs, {"outputs": total}, "tensorflow/serving/regress"),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
