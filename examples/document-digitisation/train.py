"""A recogniser of handwritten lines: convolutions and CTC, in plain Keras. It knows nothing of securetf.

    python train.py DATA OUTPUT [EPOCHS] [LINES]

DATA: `labels.tsv` (image, page, text), `characters.json`, `train/*.jpg`, `test/*.jpg`. OUTPUT: `lines.keras`.
"""

import csv
import json
import sys
from pathlib import Path

import keras
import tensorflow as tf

HEIGHT, LONGEST = 32, 1024  # pixels of a line; a longer one is squeezed
STRIDE = 4  # pixels between two places at which the model sees a character or none
NARROWEST, WIDEST = 0.87, 1.15  # how `vary` stretches a line
BATCH = 16
BOUNDS = [128, 256, 320, 384, 448, 512, 640, 768]  # lines between two of these widths share batches

data = Path(sys.argv[1] if len(sys.argv) > 1 else "data")
output = Path(sys.argv[2] if len(sys.argv) > 2 else "model")
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 20
limit = int(sys.argv[4]) if len(sys.argv) > 4 else None

# The same seed and deterministic kernels give the same weights, bit by bit, on each run.
keras.utils.set_random_seed(7)
tf.config.experimental.enable_op_determinism()

with (data / "labels.tsv").open(encoding="utf-8", newline="") as table:
    rows = [(name, text) for name, _, text in csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE)]
train = [row for row in rows if row[0].startswith("train/")][:limit]
test = [row for row in rows if row[0].startswith("test/")][:limit]
characters = json.loads((data / "characters.json").read_text(encoding="utf-8"))
code = {character: number for number, character in enumerate(characters, start=1)}  # 0 is CTC's blank


def read(name, codes):
    """Ink is positive and paper about 0, however faint the pencil."""
    image = tf.cast(tf.io.decode_jpeg(tf.io.read_file(str(data) + "/" + name), channels=1), tf.float32)
    width = tf.clip_by_value(tf.shape(image)[1] * HEIGHT // tf.shape(image)[0], 16, LONGEST)
    return -tf.image.per_image_standardization(tf.image.resize(image, (HEIGHT, width), antialias=True)), codes


def fits(image, codes):
    """CTC needs a place for each character, and one more between two that are the same."""
    places = tf.cast(NARROWEST * tf.cast(tf.shape(image)[1], tf.float32), tf.int32) // STRIDE
    return places >= tf.size(codes) + tf.math.count_nonzero(codes[1:] == codes[:-1], dtype=tf.int32)


def vary(images, codes, seed):
    """Other hands: lines wider or narrower, and each of them slanted, higher or lower, taller or smaller."""
    across = tf.random.stateless_uniform((), seed, NARROWEST, WIDEST)
    low, high = [[-0.35], [-3.0], [0.9]], [[0.35], [3.0], [1.1]]
    slant, up, tall = tf.unstack(
        tf.random.stateless_uniform((3, tf.shape(images)[0]), seed + 1, tf.constant(low), tf.constant(high))
    )
    middle, zero = HEIGHT / 2, tf.zeros_like(slant)
    rows = [zero + 1 / across, slant, -slant * middle, zero, tall, up + (1 - tall) * middle, zero, zero]
    varied = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, axis=1),
        output_shape=[HEIGHT, tf.cast(tf.cast(tf.shape(images)[2], tf.float32) * across, tf.int32)],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
    return varied, codes


def lines(rows: list[tuple[str, str]]) -> tf.data.Dataset:
    codes = tf.ragged.constant([[code[one] for one in text if one in code] for _, text in rows], tf.int32)
    return tf.data.Dataset.from_tensor_slices(([name for name, _ in rows], codes)).map(read)


def batches(rows: list[tuple[str, str]]) -> tf.data.Dataset:
    """Lines of about the same width together, so that little of a batch is padding."""
    found = lines(rows).filter(fits).cache().shuffle(len(rows), seed=7)
    found = found.bucket_by_sequence_length(
        lambda image, _: tf.shape(image)[1], BOUNDS, [BATCH] * (len(BOUNDS) + 1)
    )
    found = tf.data.Dataset.zip(found, tf.data.Dataset.random(seed=7).batch(2))
    return found.map(lambda line, seed: vary(*line, seed), tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def recogniser() -> keras.Model:
    """A line of any width to the logits of no character (0) and of each, at each place."""
    line = x = keras.Input((HEIGHT, None, 1), name="line")
    for filters, size, strides in ((24, 5, 2), (48, 3, 2), (64, 3, (2, 1)), (96, 3, (2, 1))):
        x = keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Reshape((-1, x.shape[1] * x.shape[3]))(keras.layers.Permute((2, 1, 3))(x))
    x = keras.layers.Dense(144, activation="relu")(x)
    for dilation in (1, 2, 4, 1):  # the neighbours of a letter tell which one it is
        y = keras.layers.Conv1D(144, 3, padding="same", dilation_rate=dilation, activation="relu")(x)
        x = keras.layers.LayerNormalization()(x + keras.layers.Dropout(0.2)(y))
    return keras.Model(line, keras.layers.Dense(len(characters) + 1, name="characters")(x))


def ctc(codes, logits):
    """`keras.losses.CTC` takes TensorFlow's path for dense labels: the same, at twenty times the cost."""
    places = tf.fill(tf.shape(logits)[:1], tf.shape(logits)[1])
    sparse = tf.sparse.from_dense(tf.cast(codes, tf.int32))
    return tf.nn.ctc_loss(sparse, logits, None, places, logits_time_major=False, blank_index=0)


def text_of(logits) -> str:
    """The best path: repetitions once, blanks not at all."""
    path = logits.argmax(-1)
    return "".join(characters[a - 1] for a, b in zip(path, [0, *path[:-1]], strict=True) if a not in (0, b))


def distance(one: str, other: str) -> int:
    """Levenshtein: the fewest characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


model = recogniser()
rate = keras.optimizers.schedules.CosineDecay(
    0.0, epochs * len(train) // BATCH, alpha=0.02, warmup_target=0.002, warmup_steps=len(train) // BATCH
)
model.compile(optimizer=keras.optimizers.Adam(rate, clipnorm=1.0), loss=ctc)
model.fit(batches(train), epochs=epochs, shuffle=False, verbose=2)

output.mkdir(parents=True, exist_ok=True)
model.save(output / "lines.keras")

read_out = [text_of(model(image, training=False).numpy()[0]) for image, _ in lines(test).batch(1)]
wrong = sum(distance(found, text) for found, (_, text) in zip(read_out, test, strict=True))
print(f"character error rate on {len(test)} test lines: {wrong / sum(len(text) for _, text in test):.4f}")
