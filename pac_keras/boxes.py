"""Boxes: (x0, y0, x1, y1), float32, pixels of the network input, with width = x1 - x0.

There is no other format inside the library; `from_xywh` and `to_xywh` serve COCO's files.
"""

import math

import numpy as np
from keras import ops

_MAX_LOG_RATIO = math.log(1000 / 16)
_EPSILON = 1e-6  # square pixels: the IoU of two empty boxes is 0


def box_area(boxes):
    """Area of `boxes` `[..., 4]` in square pixels, `[...]`; not negative."""
    x0, y0, x1, y1 = ops.unstack(boxes, 4, axis=-1)
    return ops.maximum(x1 - x0, 0.0) * ops.maximum(y1 - y0, 0.0)


def box_iou(first, second):
    """Intersection over union of every box of `first` with every box of `second`.

    Args:
        first: float32 `[..., N, 4]`.
        second: float32 `[..., M, 4]`.

    Returns:
        float32 `[..., N, M]` in [0, 1]; 0 for empty boxes.
    """
    shared = box_intersection(first, second)
    union = box_area(first)[..., :, None] + box_area(second)[..., None, :] - shared
    return shared / ops.maximum(union, _EPSILON)


def box_coverage(first, second):
    """Share of each box of `first` that lies in each box of `second` (IoF).

    `[..., N, 4]`, `[..., M, 4]` -> float32 `[..., N, M]` in [0, 1].
    """
    area = box_area(first)[..., :, None]
    return box_intersection(first, second) / ops.maximum(area, _EPSILON)


def box_intersection(first, second):
    """Common area of every pair in square pixels: `[..., N, 4]`, `[..., M, 4]` -> `[..., N, M]`."""
    ax0, ay0, ax1, ay1 = ops.unstack(first[..., :, None, :], 4, axis=-1)
    bx0, by0, bx1, by1 = ops.unstack(second[..., None, :, :], 4, axis=-1)
    width = ops.minimum(ax1, bx1) - ops.maximum(ax0, bx0)
    height = ops.minimum(ay1, by1) - ops.maximum(ay0, by0)
    return ops.maximum(width, 0.0) * ops.maximum(height, 0.0)


def clip_boxes(boxes, sizes):
    """`boxes` moved inside their pictures.

    Args:
        boxes: float32 `[B, N, 4]`.
        sizes: `[B, 2]`, (height, width) of each picture in pixels.
    """
    height, width = ops.unstack(ops.cast(sizes, "float32")[:, None], 2, axis=-1)  # [B, 1]
    x0, y0, x1, y1 = ops.unstack(boxes, 4, axis=-1)
    return ops.stack(
        [
            ops.clip(x0, 0.0, width),
            ops.clip(y0, 0.0, height),
            ops.clip(x1, 0.0, width),
            ops.clip(y1, 0.0, height),
        ],
        axis=-1,
    )


def not_empty(boxes):
    """Whether boxes have an area: `[..., 4]` -> bool `[...]`."""
    x0, y0, x1, y1 = ops.unstack(boxes, 4, axis=-1)
    return (x1 > x0) & (y1 > y0)


def encode_deltas(boxes, anchors, scale=(1.0, 1.0, 1.0, 1.0)):
    """Deltas that lead from `anchors` to `boxes`; the inverse of `decode_deltas`.

    Args:
        boxes, anchors: float32 `[..., 4]`. Empty rows (padding) give finite, meaningless numbers.
        scale: four numbers that the deltas are divided by (the cascade's target deviations).

    Returns:
        float32 `[..., 4]`: (dx, dy, dw, dh) / scale.
    """
    x0, y0, x1, y1 = ops.unstack(boxes, 4, axis=-1)
    ax0, ay0, ax1, ay1 = ops.unstack(anchors, 4, axis=-1)
    width, height = ops.maximum(x1 - x0, _EPSILON), ops.maximum(y1 - y0, _EPSILON)
    anchor_width, anchor_height = ops.maximum(ax1 - ax0, _EPSILON), ops.maximum(ay1 - ay0, _EPSILON)
    deltas = ops.stack(
        [
            0.5 * (x0 + x1 - ax0 - ax1) / anchor_width,
            0.5 * (y0 + y1 - ay0 - ay1) / anchor_height,
            ops.log(width / anchor_width),
            ops.log(height / anchor_height),
        ],
        axis=-1,
    )
    return deltas / ops.convert_to_tensor(scale, "float32")


def decode_deltas(deltas, anchors, scale=(1.0, 1.0, 1.0, 1.0)):
    """Boxes that `deltas` describe relative to `anchors` (R-CNN parameterisation).

    Args:
        deltas: float `[..., 4]`, (dx, dy, dw, dh): centre shifts in anchor sizes, log size ratios.
        anchors: float32 `[..., 4]`; zero-size rows (padding) stay zero-size.
        scale: the four numbers that training targets were divided by.

    Returns:
        float32 `[..., 4]`, not clipped to the picture.

    Source: Girshick et al. 2014, appendix C; the clamp of the size ratio at 1000/16 is Detectron's.
    """
    deltas = ops.cast(deltas, "float32") * ops.convert_to_tensor(scale, "float32")
    dx, dy, dw, dh = ops.unstack(deltas, 4, axis=-1)
    x0, y0, x1, y1 = ops.unstack(anchors, 4, axis=-1)
    width, height = x1 - x0, y1 - y0
    center_x, center_y = x0 + width * (0.5 + dx), y0 + height * (0.5 + dy)
    half_width = 0.5 * width * ops.exp(ops.clip(dw, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
    half_height = 0.5 * height * ops.exp(ops.clip(dh, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
    return ops.stack(
        [
            center_x - half_width,
            center_y - half_height,
            center_x + half_width,
            center_y + half_height,
        ],
        axis=-1,
    )


def from_xywh(boxes):
    """xyxy of COCO's (x, y, width, height): NumPy `[..., 4]` -> NumPy `[..., 4]`."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def to_xywh(boxes):
    """COCO's (x, y, width, height) of xyxy: NumPy `[..., 4]` -> NumPy `[..., 4]`."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)
