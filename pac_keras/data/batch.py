"""Batches of padded numbers from a source of samples."""

import functools
import math
from typing import NamedTuple

import numpy as np

from pac_keras.data.augment import Augmentation, augment, resize_to_target
from pac_keras.data.bad_images import Reader
from pac_keras.data.collate import Layout, collate
from pac_keras.data.image import Preprocessing, canvas, target_size
from pac_keras.data.repeat import copy_numbers, repeat_factors, repeated
from pac_keras.data.sample import object_counts
from pac_keras.structures import IGNORED_PIXEL, Batch, GroundTruth, Images

MOST_OBJECTS = 100  # rows of ground truth unless `max_objects` says otherwise
SMALLEST_SIDE = 32  # of a picture that is trained on, stored pixels
_FOREVER = 1_000_000  # epochs


class Dataset:
    """Batches of a source, as `fit`, `evaluate` and `predict` take them.

    Args:
        source: see `sample.Source`.
        training: drop pictures without objects, shuffle, augment, and give full batches grouped
            by aspect (a group's last batch is filled up from its beginning). Otherwise every
            picture once, ascending among pictures of one padded size.
        batch_size: pictures in a batch.
        preprocessing: resize, normalisation, padding.
        augmentation: used in training alone.
        max_objects: rows of ground truth, G; None = the most that a picture has, at most 100.
        frame: (height, width) of each object's mask grid, or "image": a bitmap of the canvas. At
            least twice the cells of the masks that are trained (docs/results.md).
        repeat_threshold: classes that fewer than this share of the pictures hold are shown more
            often (`repeat.repeat_factors`); None = every picture once. Training alone. An epoch
            has as many batches as the factors' sum fills, whichever pictures it repeats.
        on_bad_image: "raise", or "skip": see `bad_images.Reader`. Training alone.
        seed: of shuffling and augmentation, >= 0.

    Attributes:
        dropped: {reason: pictures that are not trained on}.
        cut_objects: objects beyond `max_objects`, summed over the pictures; the smallest are cut.
    Raises:
        ValueError: an argument out of range, or no picture is left.
    """

    def __init__(
        self,
        source,
        *,
        training,
        batch_size,
        preprocessing=Preprocessing(),  # noqa: B008 (immutable)
        augmentation=Augmentation(),  # noqa: B008
        max_objects=None,
        frame=(112, 112),
        repeat_threshold=None,
        on_bad_image="raise",
        seed=0,
    ):
        _check(training, batch_size, frame, repeat_threshold)
        _check_changes(preprocessing, augmentation)
        self.source = source
        self.reader = Reader(source, on_bad_image)
        self.training = training
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.frame = frame if frame == "image" else tuple(frame)
        self.seed = seed
        self.categories = tuple(source.categories)
        self.num_classes = len(self.categories)
        self.num_semantic_classes = source.num_semantic_classes
        if self.num_semantic_classes > IGNORED_PIXEL:
            raise ValueError(
                f"{source.name}: {self.num_semantic_classes} semantic classes, expected at most "
                f"{IGNORED_PIXEL}: a semantic map has 8 bits"
            )
        self.dropped = {}
        self.indices = self._choose_pictures()
        counts = [len(source.labels[index]) for index in self.indices]
        self.max_objects = max_objects or min(max(*counts, 1), MOST_OBJECTS)
        self.cut_objects = sum(max(count - self.max_objects, 0) for count in counts)
        self._factors = None if repeat_threshold is None else self._repeats(repeat_threshold)
        self._groups = self._training_groups() if training else self._evaluation_groups()
        self._steps = [self._batches_of(group) for group in self._groups]
        self._epoch = 0
        self._plans = {}

    def __len__(self):
        """Batches in an epoch."""
        return sum(self._steps)

    def __iter__(self):
        """numpy `structures.Batch` of one epoch; in training each call is the next epoch."""
        epoch = self._epoch
        self._epoch += self.training
        return self.batches(epoch, 1)

    def batches(self, start_epoch=0, epochs=None, workers=0, start_step=0, part=(0, 1)):
        """numpy `structures.Batch` of `epochs` epochs (None = without end).

        Args:
            start_epoch, start_step: position to start from. The batches of an epoch depend on
                `seed` and its number alone.
            workers: processes that read; 0 = two threads of this one.
            part: (number, count): only that part of each batch's pictures is read, for one of
                `count` processes that train together.
        """
        import grain  # takes as long as all else here together: it imports jax where there is one

        steps = len(self)
        stop = start_epoch + (_FOREVER if epochs is None else epochs)
        plan = range(start_epoch * steps + start_step, stop * steps)
        reader = grain.MapDataset.source(plan).map(functools.partial(self._batch, part=part))
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        reader = reader.to_iter_dataset(options)
        if workers:
            from absl.flags import FLAGS

            FLAGS.mark_as_parsed()  # Grain's processes read absl flags, whoever the main program is
            reader = reader.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        return iter(reader)

    def image_ids(self, epoch, step):
        """Ids of the pictures in a batch of `epoch`, in its order."""
        group = self._plan(epoch if self.training else 0)[step]
        return [self.source.image_ids[index] for index in group.indices]

    def spec(self):
        """A `structures.Batch` of (shape, dtype name) leaves, None where a dimension varies."""
        rows = self.batch_size if self.training else None
        objects = self.max_objects
        grid = (None, None) if self.frame == "image" else self.frame
        return Batch(
            Images(((rows, None, None, 3), "float32"), ((rows, 2), "int32")),
            GroundTruth(
                boxes=((rows, objects, 4), "float32"),
                labels=((rows, objects), "int32"),
                masks=((rows, objects, *grid), "uint8"),
                mask_frames=((rows, objects, 4), "float32"),
                semantic=((rows, None, None), "uint8"),
                image_ids=((rows,), "int32"),
            ),
        )

    def _choose_pictures(self):
        """Indices of the pictures to use."""
        reasons = {}
        counts = object_counts(self.source)[:, 0]
        for index, (size, objects) in enumerate(zip(self.source.sizes, counts, strict=True)):
            if self.training and objects == 0:
                reasons[index] = "no objects"
            elif self.training and min(size) < SMALLEST_SIDE:
                reasons[index] = f"a side < {SMALLEST_SIDE} pixels"
        for reason in reasons.values():
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
        indices = [index for index in range(len(self.source)) if index not in reasons]
        if not indices:
            raise ValueError(
                f"{self.source.name}: no picture to use out of {len(self.source)}; "
                f"dropped: {self.dropped}"
            )
        return indices

    def _repeats(self, threshold):
        """float64 `[len(source)]`: factors of the pictures to use."""
        factors = np.zeros(len(self.source))
        labels = [self.source.labels[index] for index in self.indices]
        factors[self.indices] = repeat_factors(labels, threshold)
        return factors

    def _batches_of(self, group):
        """Batches of an epoch that `group` fills."""
        indices = list(group.indices)
        pictures = len(indices) if self._factors is None else self._factors[indices].sum()
        return math.ceil(pictures / self.batch_size)

    def _training_groups(self):
        """Landscape and portrait, each on the one canvas that holds all of its pictures."""
        sides = self.augmentation.short_sides or (self.preprocessing.short_side,)
        largest = self.preprocessing._replace(short_side=max(sides))
        groups = {}
        for index in self.indices:
            height, width = self.source.sizes[index]
            groups.setdefault(width > height, []).append(index)
        result = []
        for _, indices in sorted(groups.items()):
            sizes = [target_size(*self.source.sizes[index], largest) for index in indices]
            shared = canvas(np.max(sizes, axis=0), self.preprocessing.stride)
            result.append(_Group(shared, tuple(indices)))
        return result

    def _evaluation_groups(self):
        """Pictures of the same own canvas."""
        groups = {}
        for index in self.indices:
            size = target_size(*self.source.sizes[index], self.preprocessing)
            groups.setdefault(canvas(size, self.preprocessing.stride), []).append(index)
        return [_Group(shared, tuple(indices)) for shared, indices in groups.items()]

    def _plan(self, epoch):
        """The batches of an epoch as a list of `_Group`; the latest two are kept."""
        if epoch not in self._plans:
            latest = {key: plan for key, plan in self._plans.items() if abs(key - epoch) == 1}
            self._plans = {**latest, epoch: self._make_plan(epoch)}
        return self._plans[epoch]

    def _make_plan(self, epoch):
        random = np.random.default_rng((self.seed, epoch))
        batches = []
        for group, steps in zip(self._groups, self._steps, strict=True):
            indices = np.asarray(group.indices)
            if self.training:
                random.shuffle(indices)
                indices = np.resize(self._repeated(indices, random), steps * self.batch_size)
            copies = copy_numbers(indices)
            for start in range(0, len(indices), self.batch_size):
                part = slice(start, start + self.batch_size)
                rows = tuple(indices[part].tolist()), tuple(copies[part].tolist())
                batches.append(_Group(group.canvas, *rows))
        if self.training:
            random.shuffle(batches)
        return batches

    def _repeated(self, indices, random):
        """Shuffled `indices` with the repeats that an epoch draws, shuffled anew."""
        if self._factors is None or (self._factors[indices] == 1).all():
            return indices
        indices = repeated(indices, self._factors[indices], random)
        random.shuffle(indices)
        return indices

    def _batch(self, number, part=(0, 1)):
        """Part `part` of batch `number`, counted from the first epoch on."""
        epoch, step = divmod(number, len(self))
        group = self._plan(epoch if self.training else 0)[step]
        size = len(group.indices) // part[1]
        rows = slice(part[0] * size, (part[0] + 1) * size)
        samples = [
            self._sample(index, epoch, copy)
            for index, copy in zip(group.indices[rows], group.copies[rows], strict=True)
        ]
        layout = Layout(self.max_objects, self.num_classes, self.frame)
        return collate(samples, group.canvas, self.preprocessing, layout)

    def _sample(self, index, epoch, copy):
        """Picture `index` as `epoch` shows it for the first (`copy` 0), the second, ... time."""
        if not self.training:
            return resize_to_target(self.source[index], self.preprocessing)
        sample = self.reader.read(index, [group.indices for group in self._groups])
        random = np.random.default_rng((self.seed, epoch, index, copy))
        return augment(sample, self.preprocessing, self.augmentation, random)


def _check(training, batch_size, frame, repeat_threshold):
    """Raises a ValueError that names an argument of `Dataset` out of range."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if frame != "image" and not (len(frame) == 2 and all(type(n) is int and n > 0 for n in frame)):
        raise ValueError(f'frame must be (height, width) or "image", got {frame!r}')
    if repeat_threshold is not None and not training:
        raise ValueError("repeat_threshold is for training alone")
    if repeat_threshold is not None and not 0 < repeat_threshold <= 1:
        raise ValueError(f"repeat_threshold must be in (0, 1], got {repeat_threshold}")


def _check_changes(preprocessing, augmentation):
    """Raises a ValueError that names what of preprocessing and augmentation does not fit."""
    if augmentation.expand < 1:
        raise ValueError(f"augmentation.expand must be at least 1, got {augmentation.expand}")
    if augmentation.jitter:
        factors = augmentation.jitter
        if len(factors) != 2 or not 0 < factors[0] <= factors[1]:
            raise ValueError(f"augmentation.jitter must be (least, most) factor, got {factors}")
        if augmentation.expand > 1 or augmentation.crop:
            raise ValueError("augmentation.jitter excludes augmentation.expand and crop")
    if augmentation.short_sides and not preprocessing.keep_ratio:
        raise ValueError(
            "augmentation.short_sides needs preprocessing.keep_ratio: without it, the long side "
            f"would stay {preprocessing.long_side}; got {augmentation.short_sides}"
        )


class _Group(NamedTuple):
    """Pictures (indices of the source) that share a canvas; in a batch also how often the epoch
    has shown each of them before."""

    canvas: tuple[int, int]
    indices: tuple[int, ...]
    copies: tuple[int, ...] = ()
