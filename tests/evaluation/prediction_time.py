"""How long models take for one picture, in turns, so that all see the same machine.

    python -m tests.evaluation.prediction_time SIZE A.keras B.keras ...

One picture of the built-in shapes, SIZE px a side; prints the median of 40 predictions in
milliseconds and its ratio to the first model's.
"""

import sys
import time

import keras
import numpy as np

import pac_keras  # noqa: F401 (load_model finds the systems)
from pac_keras.data import shapes

TURNS = 40


def main(size, *paths):
    """Prints the table."""
    batch = next(iter(shapes(training=False, batch_size=1, count=1, size=int(size))))
    models = [keras.models.load_model(path, compile=False) for path in paths]
    for model in models:
        model.predict_on_batch(batch.images)  # traces
    seconds = np.zeros((TURNS, len(models)))
    for turn in seconds:
        for index, model in enumerate(models):
            start = time.perf_counter()
            model.predict_on_batch(batch.images)
            turn[index] = time.perf_counter() - start
    medians = np.median(seconds, axis=0)
    for path, model, median in zip(paths, models, medians, strict=True):
        name = f"{type(model).__name__} {path}"
        print(f"{1000 * median:7.1f} ms  {median / medians[0]:.2f}  {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
