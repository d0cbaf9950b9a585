"""Makes the .tflite files in models/: a few kilobytes each, so that most tests of serving need no TensorFlow.

Run by hand: `python tests/integration/serving/make_models.py`.
"""

from pathlib import Path

import tensorflow as tf

HERE = Path(__file__).parent / "models"


class Small(tf.Module):
    """x: float32 [any, 4] → y: float32 [any, 3], another function for each seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        weights = tf.random.stateless_normal((4, 3), seed=(seed, 0))
        self.weights = tf.Variable(weights)

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, "x")])
    def serve(self, x):
        return {"y": tf.nn.softmax(tf.matmul(x, self.weights))}


class Pair(tf.Module):
    """a: float32 [any, 2], b: int32 [any] → total: float32 [any], double: int32 [any]."""

    @tf.function(
        input_signature=[tf.TensorSpec((None, 2), tf.float32, "a"), tf.TensorSpec((None,), tf.int32, "b")]
    )
    def serve(self, a, b):
        return {"total": tf.reduce_sum(a, axis=1), "double": b + b}


class Spin(tf.Module):
    """rounds: int32 [1] → x: float32 [1]; takes time in proportion to rounds."""

    @tf.function(input_signature=[tf.TensorSpec((1,), tf.int32, "rounds")])
    def serve(self, rounds):
        x = tf.ones((64, 64)) * 0.01
        count = tf.constant(0)
        _, x = tf.while_loop(
            lambda i, _: i < rounds[0], lambda i, x: (i + 1, tf.sin(tf.matmul(x, x)) + 0.01), [count, x]
        )
        return {"x": tf.reshape(tf.reduce_sum(x), (1,))}


class Difference(tf.Module):
    """b, a: float32 [any, 4] → less: a - b, more: a + b, each float32 [any, 4]."""

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 4), tf.float32, "b"),
            tf.TensorSpec((None, 4), tf.float32, "a"),
        ]
    )
    def serve(self, b, a):
        return {"more": a + b, "less": a - b}


class Positive(tf.Module):
    """x: float32 [any] → where: int64 [any], the places of what is positive; their number is not x's."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def serve(self, x):
        return {"where": tf.where(x > 0)[:, 0]}


def write(name: str, module: tf.Module) -> None:
    """Convert a module's `serve` as the signature serving_default."""
    function = module.serve.get_concrete_function()
    folder = HERE.parent / "saved" / name
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    (HERE / f"{name}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    import shutil

    HERE.mkdir(exist_ok=True)
    for seed in (1, 2):
        write(f"small{seed}", Small(seed))
    write("pair", Pair())
    write("spin", Spin())
    write("difference", Difference())
    write("positive", Positive())
    shutil.rmtree(HERE.parent / "saved")
