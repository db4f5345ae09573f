"""How far the answers of an exported model are from those of the model itself."""

from typing import NamedTuple

import numpy as np

from pac_keras.data.image import canvas, pad_batch, prepare
from pac_keras.detections.paste import original_boxes, paste_mask, picture

BOX_TOLERANCE = 0.5  # pixels of the picture
SCORE_TOLERANCE = 1e-3
IOU_TOLERANCE = 0.98  # smallest mask IoU, of masks of which more than SPARE_PIXELS differ
SPARE_PIXELS = 2
UNMATCHED_SHARE = 0.02  # of both sides' objects: rounding tips a score or an overlap at a threshold
LEAST_KEPT = 10  # fewer objects say nothing: two empty answers are equal


class Answer(NamedTuple):
    """The objects of one picture in its own pixels: arrays of N rows; masks bool `[N, H, W]`."""

    boxes: np.ndarray
    labels: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    box_scores: np.ndarray
    masks: np.ndarray


class Difference(NamedTuple):
    """The largest differences over the objects that both sides have.

    kept: objects of the model itself; unmatched: objects of either side without one of the other
    whose box and scores are within tolerance. boxes in pixels; scores: of masks or of boxes; iou:
    the smallest of two masks (1 where at most `SPARE_PIXELS` differ).
    """

    kept: int = 0
    unmatched: int = 0
    boxes: float = 0.0
    scores: float = 0.0
    iou: float = 1.0

    def __str__(self):
        return (
            f"{self.kept} objects kept, {self.unmatched} unmatched; largest differences: boxes "
            f"{self.boxes:.2g} px, scores {self.scores:.2g}; smallest mask IoU {self.iou:.4f}"
        )

    def problems(self):
        """What is beyond tolerance, a list of sentences."""
        checks = (
            (
                self.kept < LEAST_KEPT,
                f"{self.kept} objects kept, fewer than {LEAST_KEPT}: nothing was compared; lower "
                "--score-threshold or give other --pictures",
            ),
            (
                self.unmatched > 2 * UNMATCHED_SHARE * self.kept,
                f"{self.unmatched} objects of either side without counterpart (box within "
                f"{BOX_TOLERANCE} px, scores within {SCORE_TOLERANCE}); the model has {self.kept}",
            ),
            (self.iou < IOU_TOLERANCE, f"mask IoU {self.iou:.4f} < {IOU_TOLERANCE}"),
        )
        return [sentence for wrong, sentence in checks if wrong]


def eager_answer(model, image):
    """`Answer` of `model` itself, called eagerly on one picture, uint8 `[H, W, 3]`."""
    resized = prepare(image, model.preprocessing)
    found = model(pad_batch([resized], canvas(resized.shape[:2], model.preprocessing.stride)))
    return own_pixels(model, found, resized.shape[:2], image.shape[:2])


def own_pixels(model, found, size, original):
    """`Answer` in a picture's own pixels.

    Args:
        found: `Detections` of one picture, batch 1, in pixels of the network's input.
        size, original: (height, width) of the picture there, and stored.
    """
    found = picture(found, 0)
    found = type(found)(*(leaf[found.labels >= 0] for leaf in found))
    scale = np.divide(size, original)
    frames = found.mask_frames / np.tile(scale[::-1], 2).astype("float32")
    masks = np.zeros((len(frames), *original), bool)
    for row, frame in enumerate(frames):
        masks[row] = paste_mask(found.masks[row], frame, original, model.mask_threshold)
    ids = np.asarray([one[0] for one in model.categories or ()] or range(model.num_classes))
    return Answer(
        boxes=original_boxes(found.boxes, scale, original),
        labels=found.labels,
        category_ids=ids[found.labels],
        scores=found.scores,
        box_scores=found.box_scores,
        masks=masks,
    )


def compare(expected, got):
    """`Difference` of two `Answer`s; objects of one label whose boxes overlap most are pairs."""
    pairs = [pair for pair in _pairs(expected, got) if _are_one(expected, got, *pair)]
    unmatched = len(expected.labels) + len(got.labels) - 2 * len(pairs)
    if not pairs:
        return Difference(len(expected.labels), unmatched)
    first, second = (np.asarray(rows) for rows in zip(*pairs, strict=True))
    masks = zip(expected.masks[first], got.masks[second], strict=True)
    return Difference(
        kept=len(expected.labels),
        unmatched=unmatched,
        boxes=float(np.abs(expected.boxes[first] - got.boxes[second]).max()),
        scores=float(
            max(
                np.abs(expected.scores[first] - got.scores[second]).max(),
                np.abs(expected.box_scores[first] - got.box_scores[second]).max(),
            )
        ),
        iou=float(min(mask_iou(*two) for two in masks)),
    )


def total(differences):
    """One `Difference` over several pictures."""
    kept, unmatched, boxes, scores, iou = zip(*differences, strict=True)
    return Difference(sum(kept), sum(unmatched), max(boxes), max(scores), min(iou))


def _are_one(expected, got, row, column):
    """Whether two objects are the same but for rounding."""
    return (
        expected.category_ids[row] == got.category_ids[column]
        and np.abs(expected.boxes[row] - got.boxes[column]).max() <= BOX_TOLERANCE
        and abs(expected.scores[row] - got.scores[column]) <= SCORE_TOLERANCE
        and abs(expected.box_scores[row] - got.box_scores[column]) <= SCORE_TOLERANCE
    )


def _pairs(expected, got):
    """(row of `expected`, row of `got`), best first; each row once; box IoU of at least a half."""
    overlaps = _box_ious(expected.boxes, got.boxes)
    overlaps *= expected.labels[:, None] == got.labels[None, :]
    pairs = []
    while overlaps.size and overlaps.max() >= 0.5:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        pairs.append((row, column))
        overlaps[row], overlaps[:, column] = 0.0, 0.0
    return pairs


def _box_ious(first, second):
    """IoU of each box with each, `[N, M]`; 1 for equal boxes, also without area."""
    corners = np.concatenate(
        [
            np.maximum(first[:, None, :2], second[None, :, :2]),
            np.minimum(first[:, None, 2:], second[None, :, 2:]),
        ],
        axis=-1,
    )
    shared, one, other = (_area(boxes) for boxes in (corners, first[:, None], second[None]))
    union = one + other - shared
    equal = np.all(first[:, None] == second[None], axis=-1)
    return np.where(equal, 1.0, shared / np.maximum(union, 1e-9))


def _area(boxes):
    """Area of xyxy boxes, 0 where turned inside out."""
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def mask_iou(first, second):
    """IoU of two bool masks, 1 where at most `SPARE_PIXELS` pixels differ."""
    differing = np.count_nonzero(first != second)
    if differing <= SPARE_PIXELS:
        return 1.0
    return 1.0 - differing / np.count_nonzero(first | second)
