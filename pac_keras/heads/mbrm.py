"""Mask-based boundary refinement: boxes whose edges are moved to where the mask's edges are.

An object's mask is reduced to its maximum in each column and in each row of the picture. Positions
are pixels: a box (x0, y0, x1, y1) begins with pixel x0 and ends with pixel x1 - 1.

Source: Wang et al. 2020 (RDSNet), section 3.3, equations 3 to 5, and its public code.
"""

from keras import layers, ops

from pac_keras.boxes import not_empty
from pac_keras.masks import inside_frames

_TOGETHER = 20  # masks enlarged at once: all of a batch would be B x D x H x W numbers
_NOWHERE = -1e9  # logit whose probability is 0
_LEAST_PRIOR = 0.0044  # smaller values are 0
_EDGE_DETECTOR = (0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0)  # finds where a mask begins
PUBLISHED = (-0.2968, -0.2892, -0.2635, -3.2545, -0.1874, 2.5041, 0.0196, 0.0651, 0.0917)
PUBLISHED_BIAS = -1.9536  # both learnt on COCO by the paper's authors, as in their public code


class MBRM(layers.Layer):
    """How likely each position is to be an edge of a box, given its mask: ten weights.

    `call(columns [B, D, W], rows [B, D, H], boxes [B, D, 4], sizes [B, 2])` -> posteriors of (left,
    top, right, bottom): float32 `[B, D, W]`, `[.., H]`, `[.., W]`, `[.., H]`; each sums to 1.

    The likelihood is a convolution with a sigmoid, mirrored for right and bottom; the prior is a
    normal distribution around the given edge. It starts as an edge detector.

    Args:
        gamma: standard deviation of the prior in sides of the box; it is at least a pixel.
    """

    def __init__(self, gamma=0.05, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.gamma = gamma
        self.kernel = self.add_weight(
            name="kernel", shape=(len(_EDGE_DETECTOR),), initializer=_edge_detector
        )
        self.bias = self.add_weight(name="bias", shape=(1,), initializer="zeros")
        self.built = True

    def call(self, columns, rows, boxes, sizes):
        sizes = ops.cast(sizes, "float32")[:, None]  # [B, 1, 2]
        width, height = sizes[..., 1:], sizes[..., :1]
        x0, y0, x1, y1 = ops.split(boxes, 4, axis=-1)  # [B, D, 1]
        x2, y2 = x1 - 1.0, y1 - 1.0  # the last pixels
        deviation_x = ops.maximum(self.gamma * (x2 - x0), 1.0)
        deviation_y = ops.maximum(self.gamma * (y2 - y0), 1.0)
        mirrored = self.kernel[::-1]
        return (
            self._posterior(columns, self.kernel, x0, deviation_x, width),
            self._posterior(rows, self.kernel, y0, deviation_y, height),
            self._posterior(columns, mirrored, x2, deviation_x, width),
            self._posterior(rows, mirrored, y2, deviation_y, height),
        )

    def _posterior(self, profile, kernel, edge, deviation, length):
        """`[B, D, L]` of a profile, its regressed edge `[B, D, 1]`, and the picture's length."""
        total = ops.shape(profile)[-1]
        signal = ops.reshape(profile, (-1, total, 1))
        signal = ops.conv(signal, kernel[:, None, None], padding="same") + self.bias
        likelihood = ops.sigmoid(ops.reshape(signal, ops.shape(profile)))
        position = ops.cast(ops.arange(total), "float32")
        prior = ops.exp(-0.5 * ops.square((position - edge) / deviation))
        prior = ops.where((prior > _LEAST_PRIOR) & (position < length), prior, 0.0)
        posterior = likelihood * prior
        return posterior / ops.maximum(ops.sum(posterior, axis=-1, keepdims=True), 1e-12)


def _edge_detector(shape, dtype=None):
    return ops.reshape(ops.convert_to_tensor(_EDGE_DETECTOR, dtype), shape)


def mask_profiles(logits, frames, height, width):
    """The largest mask probability in each column `[B, D, W]` and row `[B, D, H]` of the pictures.

    Args:
        logits: float32 `[B, D, h, w]`, of the whole canvas.
        frames: float32 `[B, D, 4]`, pixels; a mask is 0 outside its frame.
        height, width: H and W of the canvas.
    """
    columns, rows = [], []
    for start in range(0, logits.shape[1], _TOGETHER):
        part = slice(start, start + _TOGETHER)
        full = full_logits(logits[:, part], frames[:, part], height, width)
        columns.append(ops.max(full, axis=-2))
        rows.append(ops.max(full, axis=-1))
    return tuple(ops.sigmoid(ops.concatenate(x, axis=1)) for x in (columns, rows))


def full_logits(logits, frames, height, width):
    """Mask logits of every pixel, float32 `[B, D, H, W]`, very small outside the frames.

    Args:
        logits: float32 `[B, D, h, w]`, enlarged bilinearly (pixels' middles).
        frames: float32 `[B, D, 4]`; they hold the pixels whose middle is inside.
    """
    columns = _stretch(ops.swapaxes(_stretch(logits, height), 2, 3), width)  # [B, D, W, H]
    inside = inside_frames(frames, height, width) > 0.0
    return ops.where(inside, ops.swapaxes(columns, 2, 3), _NOWHERE)


def _stretch(values, length):
    """`values` `[B, D, l, n]` enlarged to `[B, D, length, n]`."""
    old = ops.cast(ops.shape(values)[2], "float32")
    place = ops.cast(ops.arange(length), "float32")
    place = (place + 0.5) * old / ops.cast(length, "float32") - 0.5
    place = ops.clip(place, 0.0, old - 1.0)
    before = ops.floor(place)
    after = ops.minimum(before + 1.0, old - 1.0)
    low, high = (ops.take(values, ops.cast(x, "int32"), axis=2) for x in (before, after))
    return low + (place - before)[:, None] * (high - low)


def likeliest_boxes(posteriors, boxes):
    """Boxes `[B, D, 4]` that begin and end where the posteriors are largest.

    A box that this would leave without area keeps its old edges, so does padding.
    """
    left, top, right, bottom = (_argmax(posterior) for posterior in posteriors)
    refined = ops.stack([left, top, right + 1.0, bottom + 1.0], axis=-1)
    keep = not_empty(refined) & not_empty(boxes)
    return ops.where(keep[..., None], refined, boxes)


def enclosing_boxes(columns, rows, boxes, threshold):
    """The least boxes around masks, of their profiles; `boxes` where nothing reaches `threshold`.

    The paper's baseline "direct".
    """
    (left, right), (top, bottom) = (_ends(profile >= threshold) for profile in (columns, rows))
    found = ops.any(columns >= threshold, axis=-1, keepdims=True)
    return ops.where(found, ops.stack([left, top, right, bottom], axis=-1), boxes)


def _argmax(values):
    # `argmax` becomes an operation that LiteRT does not know.
    return ops.cast(ops.top_k(values, 1)[1][..., 0], "float32")


def _ends(inside):
    """First set position, and one behind the last: bool `[..., L]` -> two float32 `[...]`."""
    inside = ops.cast(inside, "float32")
    position = ops.cast(ops.arange(ops.shape(inside)[-1]), "float32")
    length = ops.cast(ops.shape(inside)[-1], "float32")
    first = length - ops.max(inside * (length - position), axis=-1)
    return first, ops.max(inside * (position + 1.0), axis=-1)


def boundary_loss(posteriors, boxes, positive):
    """Cross entropy of the posteriors at the objects' edges as (sum, count) over edges.

    Edges that the prior rules out are not counted: no likelihood could reach them.

    Args:
        posteriors: what `MBRM` answers.
        boxes: float32 `[B, D, 4]`, of the objects; their edges are rounded to pixels.
        positive: float32 `[B, D]`, 1 where there is an object.
    """
    first, last = ops.round(boxes[..., :2]), ops.round(boxes[..., 2:]) - 1.0
    edges = ops.unstack(ops.concatenate([first, last], axis=-1), 4, axis=-1)
    total, count = 0.0, 0.0
    for posterior, edge in zip(posteriors, edges, strict=True):
        edge = ops.clip(ops.cast(edge, "int32"), 0, ops.shape(posterior)[-1] - 1)
        value = ops.take_along_axis(posterior, edge[..., None], axis=-1)[..., 0]
        counted = positive * ops.cast(value > 0.0, "float32")
        total -= ops.sum(counted * ops.log(ops.where(value > 0.0, value, 1.0)))
        count += ops.sum(counted)
    return total, count
