"""Where a model is built and trained: all visible GPUs, or the one device there is."""

import contextlib

import keras

from pac_keras.training.experiment import ExperimentError


def device_scope(batch_size):
    """A context to build and compile a model in.

    On TensorFlow with several GPUs that of a MirroredStrategy over all of them; otherwise it does
    nothing. Raises ExperimentError if `batch_size` does not divide among the GPUs.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    count = len(tf.config.list_logical_devices("GPU"))
    if count < 2:
        return contextlib.nullcontext()
    if batch_size % count:
        raise ExperimentError(
            f"batch_size: expected a multiple of {count}, the number of GPUs, received {batch_size}"
        )
    return tf.distribute.MirroredStrategy().scope()
