"""Batches of padded numbers from a source of samples."""

from typing import NamedTuple

from pac_keras.data.image import Preprocessing
from pac_keras.structures import Batch


class Augmentation(NamedTuple):
    """What training changes at random.

    flip: probability of a horizontal flip.
    short_sides: one is drawn per picture instead of `Preprocessing.short_side`; empty = that one.
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] = ()


class Dataset:
    """Batches of a source, as `fit`, `evaluate` and `predict` take them.

    Args:
        source: see `sample.Source`.
        training: drop pictures without objects, shuffle, augment, full batches grouped by aspect.
            Otherwise every picture once, ascending among pictures of one padded size.
        batch_size: pictures in a batch.
        preprocessing: resize, normalisation, padding.
        augmentation: used in training alone.
        max_objects: rows of ground truth, G; None = the most that a picture has, at most 100.
        frame: (height, width) of each object's mask grid, or "image": a bitmap of the canvas.
        seed: of shuffling and augmentation.
    """

    def __init__(
        self,
        source,
        *,
        training,
        batch_size,
        preprocessing=Preprocessing(),
        augmentation=Augmentation(),
        max_objects=None,
        frame=(112, 112),
        seed=0,
    ):
        self.source = source
        self.training = training
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.max_objects = max_objects
        self.frame = frame
        self.seed = seed
        self.categories = tuple(source.categories)
        self.num_classes = len(self.categories)
        self.num_semantic_classes = source.num_semantic_classes

    def __len__(self):
        """Batches in an epoch."""
        raise NotImplementedError

    def __iter__(self):
        """numpy `structures.Batch` of one epoch; in training each call is the next epoch."""
        raise NotImplementedError

    def batches(self, start_epoch=0, epochs=None, workers=0):
        """numpy `structures.Batch` of `epochs` epochs (None = without end) from `start_epoch`."""
        raise NotImplementedError

    def spec(self) -> Batch:
        """A Batch of (shape, dtype name) leaves, None where a dimension varies."""
        raise NotImplementedError
