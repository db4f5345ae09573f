"""Samples of several pictures as one batch of padded numbers."""

from typing import NamedTuple

import numpy as np

from pac_keras.data import frames
from pac_keras.data.image import normalize, pad_batch
from pac_keras.data.sample import drawn_semantic_classes
from pac_keras.structures import CROWD, IGNORED_PIXEL, PADDING, Batch, GroundTruth

_EMPTY_FRAME = (0.0, 0.0, 1.0, 1.0)  # of padding rows: nobody divides by its size in vain


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


def _objects(sample, canvas, layout):
    """Padded boxes, labels, masks and frames of one sample."""
    size = layout.max_objects
    grid = canvas if layout.frame == "image" else layout.frame
    boxes, labels = np.zeros((size, 4), "float32"), np.full(size, PADDING, "int32")
    masks, mask_frames = np.zeros((size, *grid), "uint8"), np.tile(_EMPTY_FRAME, (size, 1))
    rows = _largest(sample, size)
    shapes = [sample.segmentations[row] for row in rows]
    limits = frames.visible_limits(sample)
    boxes[: len(rows)], labels[: len(rows)] = sample.boxes[rows], sample.labels[rows]
    if layout.frame == "image":
        mask_frames[: len(rows)] = (0, 0, canvas[1], canvas[0])
    else:
        mask_frames[: len(rows)] = frames.object_frames(
            boxes[: len(rows)], shapes, sample.transform, limits
        )
    mask_frames = mask_frames.astype("float32")
    for row, shape in enumerate(shapes):
        masks[row] = frames.rasterise(shape, sample.transform, mask_frames[row], grid)
    if layout.frame == "image":  # frames end at the canvas, not at the limits
        right, bottom = np.minimum(limits[2:], grid[::-1]).astype("int64")
        masks[:, bottom:], masks[:, :, right:] = 0, 0
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
    if sample.semantic is None and drawn_semantic_classes(layout.num_classes):
        return frames.semantic_cells(sample, canvas, layout.num_classes)
    cells = np.full((canvas[0] // 8, canvas[1] // 8), IGNORED_PIXEL, "uint8")
    if sample.semantic is not None:
        first = sample.semantic[::8, ::8]
        cells[: first.shape[0], : first.shape[1]] = first
    return cells
