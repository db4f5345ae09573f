"""Anchor boxes of a feature pyramid."""

import numpy as np
from keras import ops

ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height / width, in this order
ANCHOR_SCALES = (8,)  # sides of square anchors in strides
_CANVAS = 32.0  # pixels that a canvas is a multiple of


def base_anchors(stride, scales=ANCHOR_SCALES, ratios=ASPECT_RATIOS):
    """Anchors of one cell: float32 NumPy `[len(ratios) * len(scales), 4]`, centred on (0, 0).

    In the order (ratio, scale).
    """
    root = np.sqrt(np.asarray(ratios, "float64"))[:, None]
    half = 0.5 * stride * np.asarray(scales, "float64")
    half_width, half_height = (half / root).ravel(), (half * root).ravel()
    corners = np.stack([-half_width, -half_height, half_width, half_height], axis=-1)
    return corners.astype("float32")


def anchor_grid(height, width, stride, base, centre=0.0):
    """All anchors of a map, float32 `[height * width * A, 4]`, in the order (y, x, anchor).

    Args:
        height, width: of the map.
        stride: pixels per cell.
        base: `[A, 4]`, the anchors of a cell around (0, 0).
        centre: where in its cell an anchor is centred: 0 = the first corner, 0.5 = the middle.
    """
    x = (ops.cast(ops.arange(width), "float32") + centre) * stride
    y = (ops.cast(ops.arange(height), "float32") + centre) * stride
    y, x = ops.meshgrid(y, x, indexing="ij")
    shifts = ops.stack([x, y, x, y], axis=-1)  # [h, w, 4]
    return ops.reshape(shifts[:, :, None] + base, (-1, 4))


def inside_picture(anchors, sizes, border):
    """1 where an anchor lies inside the picture (up to `border` pixels outside), float32 `[B, N]`.

    Args:
        anchors: float32 `[N, 4]`.
        sizes: `[B, 2]`, (height, width) in pixels.
        border: pixels that an anchor may reach beyond the picture; None = every anchor centred on
            the picture's own canvas (its sides rounded up to a multiple of 32) counts as inside.
    """
    sizes = ops.cast(sizes, "float32")
    if border is None:
        return centred_inside(anchors, ops.ceil(sizes / _CANVAS) * _CANVAS)
    x0, y0, x1, y1 = ops.unstack(anchors[None], 4, axis=-1)
    height, width = ops.unstack(sizes[:, None], 2, axis=-1)  # [B, 1]
    inside = (x0 >= -border) & (y0 >= -border) & (x1 < width + border) & (y1 < height + border)
    return ops.cast(inside, "float32")


def centred_inside(anchors, sizes):
    """1 where the centre of an anchor lies inside `sizes` `[B, 2]`, float32 `[B, N]`."""
    x0, y0, x1, y1 = ops.unstack(anchors[None], 4, axis=-1)
    height, width = ops.unstack(ops.cast(sizes, "float32")[:, None], 2, axis=-1)  # [B, 1]
    return ops.cast((x0 + x1 < 2.0 * width) & (y0 + y1 < 2.0 * height), "float32")
