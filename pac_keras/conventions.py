"""Where boxes and anchors lie on the pixels: our convention, and mmdetection 1.x's.

Both work on our boxes: edges, width = x1 - x0. mmdetection 1.x counted pixels instead: its boxes
ended *on* their last pixel, width = x2 - x1 + 1. With x1 = x2 + 1 that is the same box, and its
deltas and IoU are ours. What is left, and what weights that were trained so expect, is in
`PLUS_ONE`: rounded anchors, corners clipped to the last pixel, crops cut to whole pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from pac_keras.boxes import clip_boxes
from pac_keras.proposals.anchors import ASPECT_RATIOS, base_anchors


class Convention(NamedTuple):
    """Functions that differ.

    base_anchors(stride, scales): float32 NumPy `[A, 4]`, around the middle of a cell.
    clip(boxes, sizes): float32 `[B, N, 4]` moved into pictures of `sizes` `[B, 2]`.
    crop(boxes, limits, padding, stride): float32 `[B, N, 4]` enlarged on each side by the larger of
        `padding` = (share of the side, cells), within `limits` `[B, 2]` = (rows, columns) of cells
        of `stride` pixels; boxes are in pixels, the result in cells.
    """

    base_anchors: Callable
    clip: Callable
    crop: Callable


def _crop(boxes, limits, padding, stride=1):
    start, end = boxes[..., :2] / stride, boxes[..., 2:] / stride
    share, least = padding
    margin = ops.maximum(share * (end - start), least)
    return clip_boxes(ops.concatenate([start - margin, end + margin], axis=-1), limits)


def _plus_one_anchors(stride, scales):
    """Rounded to whole pixels, around a middle that is half a pixel before ours."""
    roots = np.sqrt(np.asarray(ASPECT_RATIOS, "float32"))[:, None]
    scales = np.asarray(scales, "float32")
    sides = [(stride / roots * scales).ravel(), (stride * roots * scales).ravel()]
    half = 0.5 * (np.stack(sides, axis=-1) - 1)
    middle = 0.5 * (stride - 1)
    first, last = np.round(middle - half), np.round(middle + half)
    return np.concatenate([first, last + 1], axis=-1).astype("float32") - 0.5 * stride


def _plus_one_clip(boxes, sizes):
    last = ops.cast(sizes, "float32")[:, None, ::-1] - 1.0  # [B, 1, 2], x before y
    start = ops.clip(boxes[..., :2], 0.0, last)
    return ops.concatenate([start, ops.clip(boxes[..., 2:] - 1.0, 0.0, last) + 1.0], axis=-1)


def _plus_one_crop(boxes, limits, padding, stride=1):
    start, last = boxes[..., :2] / stride, (boxes[..., 2:] - 1.0) / stride
    share, least = padding
    margin = ops.maximum(share * (last - start + 1.0), least)
    limits = ops.cast(limits, "float32")[:, None, ::-1]
    start = ops.floor(ops.maximum(start - margin, 0.0))
    return ops.concatenate([start, ops.floor(ops.minimum(last + margin, limits))], axis=-1)


EDGES = Convention(base_anchors, clip_boxes, _crop)
PLUS_ONE = Convention(_plus_one_anchors, _plus_one_clip, _plus_one_crop)
