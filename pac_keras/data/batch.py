"""Batches of padded numbers from a source of samples."""

import math
from typing import NamedTuple

import numpy as np

from pac_keras.data import frames
from pac_keras.data.augment import Augmentation, augment, resize_keep_ratio
from pac_keras.data.image import Preprocessing, canvas, normalize, pad_batch, target_size
from pac_keras.structures import CROWD, IGNORED_PIXEL, PADDING, Batch, GroundTruth, Images

MOST_OBJECTS = 100  # rows of ground truth unless `max_objects` says otherwise
SMALLEST_SIDE = 32  # of a picture that is trained on, stored pixels
_FOREVER = 1_000_000  # epochs
_EMPTY_FRAME = (0.0, 0.0, 1.0, 1.0)  # of padding rows: nobody divides by its size in vain


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
        frame: (height, width) of each object's mask grid, or "image": a bitmap of the canvas.
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
        seed=0,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if frame != "image" and not (len(frame) == 2 and min(frame) >= 1):
            raise ValueError(f'frame must be (height, width) or "image", got {frame!r}')
        self.source = source
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
        counts = [sum(source.object_counts[index]) for index in self.indices]
        self.max_objects = max_objects or min(max(*counts, 1), MOST_OBJECTS)
        self.cut_objects = sum(max(count - self.max_objects, 0) for count in counts)
        self._groups = self._training_groups() if training else self._evaluation_groups()
        self._epoch = 0
        self._plans = {}

    def __len__(self):
        """Batches in an epoch."""
        return sum(math.ceil(len(group.indices) / self.batch_size) for group in self._groups)

    def __iter__(self):
        """numpy `structures.Batch` of one epoch; in training each call is the next epoch."""
        epoch = self._epoch
        self._epoch += self.training
        return self.batches(epoch, 1)

    def batches(self, start_epoch=0, epochs=None, workers=0, start_step=0):
        """numpy `structures.Batch` of `epochs` epochs (None = without end).

        Args:
            start_epoch, start_step: position to start from. The batches of an epoch depend on
                `seed` and its number alone.
            workers: processes that read; 0 = two threads of this one.
        """
        import grain  # takes as long as all else here together: it imports jax where there is one

        steps = len(self)
        stop = start_epoch + (_FOREVER if epochs is None else epochs)
        plan = range(start_epoch * steps + start_step, stop * steps)
        reader = grain.MapDataset.source(plan).map(self._batch)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        reader = reader.to_iter_dataset(options)
        if workers:
            from absl.flags import FLAGS

            FLAGS.mark_as_parsed()  # Grain's processes read absl flags, whoever the main program is
            reader = reader.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        return iter(reader)

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
        for index, (size, (objects, _)) in enumerate(
            zip(self.source.sizes, self.source.object_counts, strict=True)
        ):
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
        for group in self._groups:
            indices = np.asarray(group.indices)
            if self.training:
                random.shuffle(indices)
                full = math.ceil(len(indices) / self.batch_size) * self.batch_size
                indices = np.resize(indices, full)
            for start in range(0, len(indices), self.batch_size):
                chosen = indices[start : start + self.batch_size].tolist()
                batches.append(_Group(group.canvas, tuple(chosen)))
        if self.training:
            random.shuffle(batches)
        return batches

    def _batch(self, number):
        """Batch `number`, counted from the first epoch on."""
        epoch, step = divmod(number, len(self))
        group = self._plan(epoch if self.training else 0)[step]
        samples = [self._sample(index, epoch) for index in group.indices]
        layout = Layout(self.max_objects, self.num_classes, self.frame)
        return collate(samples, group.canvas, self.preprocessing, layout)

    def _sample(self, index, epoch):
        """Picture `index` as `epoch` shows it."""
        sample = self.source[index]
        if not self.training:
            return resize_keep_ratio(sample, self.preprocessing)
        random = np.random.default_rng((self.seed, epoch, index))
        return augment(sample, self.preprocessing, self.augmentation, random)


class Layout(NamedTuple):
    """How ground truth is laid out: rows G, classes K, mask grid (or "image")."""

    max_objects: int
    num_classes: int
    frame: tuple[int, int] | str = (112, 112)


def collate(samples, canvas, preprocessing, layout):
    """numpy `structures.Batch` of resized samples on one canvas (height, width).

    Rows beyond a picture's objects have label -1 and zeros. Where a sample has no semantic map,
    its target is drawn from the objects (`frames.semantic_cells`).
    """
    pictures = [normalize(sample.image, preprocessing) for sample in samples]
    objects = [_objects(sample, canvas, layout) for sample in samples]
    boxes, labels, masks, mask_frames = (np.stack(field) for field in zip(*objects, strict=True))
    truth = GroundTruth(
        boxes=boxes,
        labels=labels,
        masks=masks,
        mask_frames=mask_frames,
        semantic=np.stack([_semantic(sample, canvas, layout) for sample in samples]),
        image_ids=np.asarray([sample.image_id for sample in samples], "int32"),
    )
    return Batch(pad_batch(pictures, canvas), truth)


class _Group(NamedTuple):
    """Pictures (indices of the source) that share a canvas."""

    canvas: tuple[int, int]
    indices: tuple[int, ...]


def _objects(sample, canvas, layout):
    """Padded boxes, labels, masks and frames of one sample."""
    size = layout.max_objects
    grid = canvas if layout.frame == "image" else layout.frame
    boxes, labels = np.zeros((size, 4), "float32"), np.full(size, PADDING, "int32")
    masks, mask_frames = np.zeros((size, *grid), "uint8"), np.tile(_EMPTY_FRAME, (size, 1))
    rows = _largest(sample, size)
    shapes = [sample.segmentations[row] for row in rows]
    boxes[: len(rows)], labels[: len(rows)] = sample.boxes[rows], sample.labels[rows]
    if layout.frame == "image":
        mask_frames[: len(rows)] = (0, 0, canvas[1], canvas[0])
    else:
        mask_frames[: len(rows)] = frames.object_frames(
            boxes[: len(rows)], shapes, sample.transform
        )
    mask_frames = mask_frames.astype("float32")
    for row, shape in enumerate(shapes):
        masks[row] = frames.rasterise(shape, sample.transform, mask_frames[row], grid)
    return boxes, labels, masks, mask_frames


def _largest(sample, count):
    """At most `count` rows, in their order: crowd is cut first, then the smallest boxes."""
    if len(sample.labels) <= count:
        return list(range(len(sample.labels)))
    width, height = (sample.boxes[:, 2:] - sample.boxes[:, :2]).T
    order = np.lexsort((-width * height, sample.labels == CROWD))
    return sorted(order[:count].tolist())


def _semantic(sample, canvas, layout):
    """uint8 `[H/8, W/8]`: the class at the first pixel of each 8 x 8 cell, 255 in the padding."""
    if sample.semantic is None:
        return frames.semantic_cells(sample, canvas, layout.num_classes)
    cells = np.full((canvas[0] // 8, canvas[1] // 8), IGNORED_PIXEL, "uint8")
    first = sample.semantic[::8, ::8]
    cells[: first.shape[0], : first.shape[1]] = first
    return cells
