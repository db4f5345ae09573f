"""The graph of one input size that LiteRT and ONNX files hold (TensorFlow).

A picture is resized (`Preprocessing`), put at the top left of a canvas of that size, and its own
size is told beside it; normalising is part of the graph. Only operations that both formats know
are in it: the trace uses no kernels of TensorFlow's own.
"""

import numpy as np
import tensorflow as tf

from pac_keras.kernels import portable
from pac_keras.structures import Images


def fixed_function(model, height, width):
    """The concrete function of (image, size) -> {field: array} of `Detections`, batch 1.

    image: uint8 `[1, height, width, 3]`, RGB; what is right of or below the picture is ignored.
    size: int32 `[1, 2]`, (height, width) of the picture on it.

    Raises:
        ValueError: a side is no multiple of 32, the stride of the coarsest map.
    """
    for name, side in (("height", height), ("width", width)):
        if side < 32 or side % 32:
            raise ValueError(f"{name}: expected a multiple of 32, received {side}")
    preprocessing = model.preprocessing
    mean, std = (np.asarray(x, "float32") for x in (preprocessing.mean, preprocessing.std))

    def detect(image, size):
        rows = tf.range(height)[None, :, None, None] < size[:, 0, None, None, None]
        columns = tf.range(width)[None, None, :, None] < size[:, 1, None, None, None]
        pixels = (tf.cast(image, tf.float32) - mean) / std
        pixels *= tf.cast(rows & columns, tf.float32)
        with portable():
            return model(Images(pixels, size))._asdict()

    image = tf.TensorSpec([1, height, width, 3], tf.uint8, "image")
    return tf.function(detect).get_concrete_function(image, tf.TensorSpec([1, 2], tf.int32, "size"))
