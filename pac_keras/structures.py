"""The structures that travel between the parts: NamedTuples of numbers, one definition each.

Letters: B images, H x W network input, G objects (padded), R regions, D detections (padded),
K classes, h x w a mask's own grid. Boxes are (x0, y0, x1, y1), float32, in pixels of the network
input with continuous edges: width = x1 - x0.

Labels are 0..K-1 in ascending COCO category id. `PADDING` marks a row that is not there, `CROWD` an
object that is ignored; the box heads' background class is K, the last one.
"""

from typing import Any, NamedTuple

PADDING = -1
CROWD = -2
IGNORED_PIXEL = 255  # of a semantic map: no loss there

Tensor = Any


class Images(NamedTuple):
    """Network input.

    pixels: float `[B, H, W, 3]`, normalised, zero right of and below each picture; H and W are
        multiples of 32.
    sizes: int32 `[B, 2]`, (height, width) of the picture inside its canvas.
    """

    pixels: Tensor
    sizes: Tensor


class GroundTruth(NamedTuple):
    """What is in the pictures.

    boxes: float32 `[B, G, 4]`, zero on padding.
    labels: int32 `[B, G]`, 0..K-1, `PADDING` or `CROWD`.
    masks: uint8 `[B, G, fh, fw]`, 0 or 1: each object drawn on the grid of its own frame.
    mask_frames: float32 `[B, G, 4]`: the box that `masks` covers (usually the object's own box,
        slightly enlarged; the whole image is another legal frame).
    semantic: uint8 `[B, H/8, W/8]`, class of each cell's first pixel, 255 = ignored.
    image_ids: int32 `[B]`.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    mask_frames: Tensor
    semantic: Tensor
    image_ids: Tensor


class Batch(NamedTuple):
    """Two fields, so that Keras's own (x, y) split fits in fit, evaluate and predict."""

    images: Images
    ground_truth: GroundTruth


class Rois(NamedTuple):
    """Regions of interest: proposals, or boxes on their way through a cascade.

    boxes: float32 `[B, R, 4]`.
    valid: float32 `[B, R]`, 1 or 0 (padding, or dropped).
    is_truth: float32 `[B, R]`, 1 where the region is a ground-truth box that sampling appended.
    """

    boxes: Tensor
    valid: Tensor
    is_truth: Tensor


class Matches(NamedTuple):
    """Which object each region answers for.

    objects: int32 `[B, R]`, row of the object; 0 where there is none.
    labels: int32 `[B, R]`: the object's class, K = background, `PADDING` = no loss.
    positive: float32 `[B, R]`, 1 where the region has an object.
    """

    objects: Tensor
    labels: Tensor
    positive: Tensor


class Detections(NamedTuple):
    """What a system found, best first.

    boxes: float32 `[B, D, 4]`, inside the picture; zero on padding.
    labels: int32 `[B, D]`, 0..K-1, `PADDING` where fewer than D objects were found.
    scores: float32 `[B, D]` in [0, 1]: the ranking of masks (class score, times mask quality in
        systems that predict one); 0 on padding.
    box_scores: float32 `[B, D]` in [0, 1]: the ranking of boxes.
    masks: float32 `[B, D, h, w]` in [0, 1]: probability on the grid of the frame.
    mask_frames: float32 `[B, D, 4]`: the box that a mask covers.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    box_scores: Tensor
    masks: Tensor
    mask_frames: Tensor
