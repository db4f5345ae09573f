"""Where a model is built and trained: all visible devices, of one machine or of several."""

import contextlib
import json
import os

import keras

from pac_keras.training.experiment import ExperimentError


class Devices:
    """The devices that train together, found before anything is computed.

    TensorFlow: a MirroredStrategy over the GPUs of this machine; a MultiWorkerMirroredStrategy
    where the environment variable TF_CONFIG tells of several workers (the form that
    tf.distribute's guides describe). JAX: `keras.distribution.DataParallel` over all devices. One
    device needs none of them.

    Attributes:
        count: how many.
        chief: whether this process writes the run's folder.
        alone: whether it is the only one.

    Raises:
        ExperimentError: `batch_size` does not divide among them, or TF_CONFIG is not understood.
    """

    def __init__(self, batch_size):
        self.chief, self.alone, self._strategy = True, True, None
        if keras.backend.backend() == "tensorflow":
            self.count = self._mirror()
        else:
            self.count = self._parallel()
        if batch_size % self.count:
            raise ExperimentError(
                f"batch_size: expected a multiple of {self.count}, the number of devices that "
                f"train together, received {batch_size}"
            )

    def scope(self):
        """A context to build and compile a model in."""
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    def wait_for_all(self):
        """Returns once all workers are here: the chief still evaluates when the others are done,
        and a worker that leaves takes them all down."""
        if not self.alone:
            import tensorflow as tf

            self._strategy.reduce(tf.distribute.ReduceOp.SUM, tf.ones(()), axis=None)

    def _mirror(self):
        import tensorflow as tf

        workers, index = _workers()
        self.alone, self.chief = workers == 1, index == 0
        if workers > 1:
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        elif len(tf.config.list_logical_devices("GPU")) > 1:
            self._strategy = tf.distribute.MirroredStrategy()
        return self._strategy.num_replicas_in_sync if self._strategy else 1

    def _parallel(self):
        devices = keras.distribution.list_devices()
        if len(devices) > 1:
            distribution = keras.distribution.DataParallel(devices=devices)
            keras.distribution.set_distribution(distribution)
        return len(devices)


def _workers():
    """(number of workers, index of this one) as TF_CONFIG says; (1, 0) without it."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 1, 0
    try:
        config = json.loads(text)
        workers = config["cluster"]["worker"]
        kind, index = config["task"]["type"], int(config["task"]["index"])
        if kind != "worker" or not 0 <= index < len(workers):
            raise ValueError(f"task {config['task']}")
    except (ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            'TF_CONFIG: expected {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": '
            f'"worker", "index": N}}}}, received {text[:200]!r} ({error})'
        ) from error
    return len(workers), index
