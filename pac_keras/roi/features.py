"""Features of boxes from several sources: a system lists its sources once, heads never ask.

A source is a function `(boxes [B, R, 4], size) -> [B * R, size, size, C]`.
"""

import math

from keras import ops

from pac_keras.choices import check_choice
from pac_keras.layers import pad_borders
from pac_keras.roi.align import roi_align

_FINEST_SIDE = 56.0  # pixels: boxes of twice this side leave P2 for P3
_ROI_LEVELS = (2, 3, 4, 5)
_SEMANTIC_STRIDE = 8
_MASK_SIZE = 14


def roi_levels(boxes):
    """Which of P2..P5 serves each box: `[..., 4]` -> int32 `[...]` in 0..3.

    Source: Lin et al. 2017, equation 1, with Detectron's constant.
    """
    x0, y0, x1, y1 = ops.unstack(boxes, 4, axis=-1)
    side = ops.sqrt(ops.maximum(x1 - x0, 0.0) * ops.maximum(y1 - y0, 0.0))
    level = ops.floor(ops.log(side / _FINEST_SIDE + 1e-6) / math.log(2.0))
    # Clipped as whole numbers: of a box that is NaN, too, so that its loss can tell.
    return ops.clip(ops.cast(level, "int32"), 0, len(_ROI_LEVELS) - 1)


def from_pyramid(pyramid, sampling_ratio=2, aligned=True):
    """Source: each box from the level of `pyramid` that suits its size."""
    maps = [pyramid[level] for level in _ROI_LEVELS]
    strides = [2.0**level for level in _ROI_LEVELS]

    def source(boxes, size):
        return roi_align(maps, strides, boxes, roi_levels(boxes), size, sampling_ratio, aligned)

    return source


def from_map(features, stride, sampling_ratio=2):
    """Source: the one map `features` `[B, H/stride, W/stride, C]` for all boxes."""

    def source(boxes, size):
        levels = ops.zeros(ops.shape(boxes)[:2], dtype="int32")
        return roi_align([features], [stride], boxes, levels, size, sampling_ratio)

    return source


def points_of_map(features, stride):
    """Source: one bilinear sample of the map at each cell's centre; the map is zero outside.

    Source: RefineMask's public code (`grid_sample`); RoIAlign repeats the outermost cells instead.
    """
    framed = from_map(pad_borders(features, 1), stride, sampling_ratio=1)
    return lambda boxes, size: framed(boxes + stride, size)


def from_semantic(features, sampling_ratio=2):
    """Source: the stride-8 map `[B, H/8, W/8, C]` of a semantic branch.

    Always sampled at 14 x 14; smaller grids are means of it, as in HTC's public code.
    """
    fine = from_map(features, _SEMANTIC_STRIDE, sampling_ratio)

    def source(boxes, size):
        cut = fine(boxes, _MASK_SIZE)
        if size == _MASK_SIZE:
            return cut
        factor = _MASK_SIZE // size
        return ops.average_pool(cut, factor, strides=factor)

    return source


def from_context(context):
    """Source: one vector of each picture, `[B, 1, 1, C]`, the same in every cell of every box."""

    def source(boxes, size):
        return ops.repeat(context, boxes.shape[1], axis=0)  # [B * R, 1, 1, C], to be broadcast

    return source


def fuse(*sources, reduce=None):
    """The source that adds `sources`, or that applies `reduce` to their stacked channels."""

    def source(boxes, size):
        cuts = [cut(boxes, size) for cut in sources]
        if reduce is None:
            return sum(cuts[1:], cuts[0])
        return reduce(ops.concatenate(cuts, axis=-1))

    return source


def branch_sources(pyramid, semantic, fused_branches, reduce=None, sampling_ratio=2):
    """Sources of the box and of the mask branch: the pyramid, fused with `semantic` where asked.

    Args:
        pyramid: {2..6: `[B, h, w, C]`}.
        semantic: `[B, H/8, W/8, C]`, or None.
        fused_branches: which of "box" and "mask" receive semantic features.
        reduce: see `fuse`.
        sampling_ratio: see `roi_align`.
    """
    for branch in fused_branches:
        check_choice("semantic_fusion", branch, ("box", "mask"))
    plain = from_pyramid(pyramid, sampling_ratio)
    if semantic is None:
        return plain, plain
    fused = fuse(plain, from_semantic(semantic, sampling_ratio), reduce=reduce)
    return tuple(fused if branch in fused_branches else plain for branch in ("box", "mask"))
