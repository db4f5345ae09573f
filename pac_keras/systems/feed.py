"""How a `pac_keras.data` Dataset reaches Keras's `fit`, `evaluate` and `predict`."""

import contextlib
import itertools

import keras

from pac_keras.structures import Batch, GroundTruth, Images
from pac_keras.systems.replicas import fed_to_workers, prefetched, several_workers


def feed(dataset, start_epoch=None, start_step=0, failures=None, strategy=None):
    """What Keras iterates over: Batches from a step of `start_epoch` on, without end; None = one
    epoch. Errors of reading are also put into the list `failures`: TensorFlow makes others of them.

    On TensorFlow heights and widths are unknown, so that every shape fits one graph. `strategy` is
    the model's, of `tf.distribute`: where it spans several workers, each reads its own pictures.
    """

    def batches(part=(0, 1)):
        epochs = 1 if start_epoch is None else None
        try:
            yield from dataset.batches(start_epoch or 0, epochs, start_step=start_step, part=part)
        except Exception as error:
            if failures is not None:
                failures.append(error)
            raise

    if keras.backend.backend() != "tensorflow":
        return batches()
    import tensorflow as tf

    images, truth = (itertools.starmap(tf.TensorSpec, part) for part in dataset.spec())
    spec = Batch(Images(*images), GroundTruth(*truth))
    if strategy is not None and several_workers(strategy):
        spec = tf.nest.map_structure(_of_any_batch, spec)
        return fed_to_workers(batches, spec, dataset.batch_size, strategy)
    return prefetched(tf.data.Dataset.from_generator(batches, output_signature=spec))


def _of_any_batch(spec):
    """A TensorSpec whose first dimension is unknown."""
    import tensorflow as tf

    return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)


@contextlib.contextmanager
def original_error(failures):
    """Context whose error is raised as the one of reading that is its cause, if there is one."""
    try:
        yield
    except Exception as error:
        if failures and failures[0] is not error:
            raise failures[0] from error
        raise


def is_dataset(x):
    """Whether `x` is one; the import is lazy, since a deployed model does not need the data."""
    from pac_keras.data import Dataset

    return isinstance(x, Dataset)
