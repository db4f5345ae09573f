"""How far the answers of an exported file may be from those of its model, and how far they are."""

import json
import pathlib
from typing import NamedTuple

import numpy as np
from metadata import fitted_images

from pac_keras.boxes import box_iou
from pac_keras.data.image import canvas as padded_canvas
from pac_keras.data.image import pad_batch, prepare
from pac_keras.detections.paste import original_boxes, paste_mask, picture
from pac_keras.systems.base_one_stage import OneStageSegmenter

LEAST_COMPARED = 10  # objects over all pictures; fewer say nothing: two empty answers are equal
SPARE_PIXELS = 2  # of a mask, which may differ in any case
_SAME_OBJECT = 0.5  # box IoU from which two objects of a class can be one


class Tolerance(NamedTuple):
    """What two objects may differ by and still be the same, and how many may be missing.

    box_iou, mask_iou: the smallest; score, box_px: the largest differences, the latter in pixels
        of the network's input, of a SavedModel of the picture.
    mask_share: of the picture's pixels in which two masks differ, the largest.
    unmatched: share of objects that may have no counterpart: rounding tips a score or an overlap at
        a threshold, and one of two equal objects is left instead of the other.
    least_score: only objects that score above it need one.
    """

    box_iou: float = 0.99
    box_px: float = np.inf
    score: float = 1e-3
    mask_iou: float = 0.98
    mask_share: float = 1.0
    unmatched: float = 0.005
    least_score: float = 0.0


# Rounding weights moves an object across a threshold here and there; quantised files are judged by
# their AP, and here only asked for the objects that the model is sure of.
TOLERANCES = {
    "SavedModel": Tolerance(box_iou=0.0, box_px=0.01, score=1e-5, mask_share=1e-3),
    "float32": Tolerance(),
    "float16": Tolerance(0.5, 0.5, 0.01, 0.9, unmatched=0.02, least_score=0.05),
    "dynamic": Tolerance(0.5, score=1.0, mask_iou=0.5, unmatched=0.1, least_score=0.5),
    "int8": Tolerance(0.5, score=1.0, mask_iou=0.5, unmatched=0.1, least_score=0.5),
}


class Answer(NamedTuple):
    """The objects of one picture.

    boxes: float32 `[N, 4]`; labels: int32 `[N]`; scores, box_scores: float32 `[N]`; masks: bool
    `[N, H, W]`, of the picture as it is displayed.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    box_scores: np.ndarray
    masks: np.ndarray


class Pairs(NamedTuple):
    """The objects that two answers share, as far as they need to, and how many have no counterpart.

    Arrays of one row for each pair: box IoU, largest difference of an edge in pixels, of the two
    scores, mask IoU, share of the picture's pixels in which the masks differ.
    """

    kept: int
    unmatched: int
    box_iou: np.ndarray
    box_px: np.ndarray
    score: np.ndarray
    mask_iou: np.ndarray
    mask_share: np.ndarray


def tolerance_of(model, kind):
    """The `Tolerance` of TOLERANCES; edges that are whole pixels, as `MBRM` puts them, may move by
    one where weights are rounded."""
    tolerance = TOLERANCES[kind]
    whole_pixels = isinstance(model, OneStageSegmenter) and model.box_refinement != "none"
    return tolerance._replace(box_px=1.01) if whole_pixels and kind == "float16" else tolerance


def answer_of_model(model, image, canvas=None):
    """`Answer` of `model` itself, called eagerly on one picture, in that picture's own pixels.

    Args:
        image: uint8 `[H, W, 3]`.
        canvas: (height, width) of the input; None for as much as the picture needs.
    """
    if canvas is None:
        resized = prepare(image, model.preprocessing)
        size = padded_canvas(resized.shape[:2], model.preprocessing.stride)
        images = pad_batch([resized], size)
    else:
        images = fitted_images(image, canvas, model.preprocessing)
    return own_pixels(model, model(images), images.sizes[0], image.shape[:2])


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
    boxes = original_boxes(found.boxes, scale, original)
    return Answer(boxes, found.labels, found.scores, found.box_scores, masks)


def compare(expected, got, tolerance, most, scale=(1.0, 1.0)):
    """`Pairs` of two `Answer`s for one picture.

    Args:
        tolerance: `Tolerance`.
        most: objects that an answer can hold. Where it is full, those that score like the last
            one need no counterpart: rounding decides which of them are in.
        scale: (y, x) pixels that differences of boxes are told in, per pixel of the boxes.
    """
    expected, got = (_scaled(answer, scale) for answer in (expected, got))
    rows, columns = _matches(expected, got, tolerance)
    sides = ((expected, rows), (got, columns))
    missing = sum(_without(side, found, tolerance, most) for side, found in sides)
    sure = expected.scores[rows] >= tolerance.least_score
    rows, columns = rows[sure], columns[sure]
    masks = list(zip(expected.masks[rows], got.masks[columns], strict=True))
    return Pairs(
        kept=int(np.sum(expected.scores >= tolerance.least_score)),
        unmatched=missing,
        box_iou=_ious(expected, got)[rows, columns],
        box_px=_edge_differences(expected, got)[rows, columns],
        score=_score_differences(expected, got)[rows, columns],
        mask_iou=np.asarray([mask_iou(*two) for two in masks]),
        mask_share=np.asarray([np.mean(one != other) for one, other in masks]),
    )


def together(pairs):
    """One `Pairs` over several pictures."""
    counts = [sum(one[field] for one in pairs) for field in range(2)]
    arrays = list(zip(*pairs, strict=True))[2:]
    return Pairs(*counts, *(np.concatenate(one) for one in arrays))


def summary(pairs, tolerance):
    """The report's part about differences: figures, and what is beyond tolerance in "problems".

    Args:
        pairs: `Pairs` of each picture.
    """
    fewest = min(one.kept for one in pairs)
    pairs = together(pairs)
    return {
        "objects": pairs.kept,
        "fewest_objects_of_a_picture": fewest,
        "matched": len(pairs.score),
        "unmatched": pairs.unmatched,
        "smallest_box_iou": float(pairs.box_iou.min(initial=1.0)),
        "largest_box_difference_px": float(pairs.box_px.max(initial=0.0)),
        "largest_score_difference": float(pairs.score.max(initial=0.0)),
        "smallest_mask_iou": float(pairs.mask_iou.min(initial=1.0)),
        "mean_mask_iou": float(pairs.mask_iou.mean()) if len(pairs.mask_iou) else 1.0,
        "largest_share_of_mask_pixels": float(pairs.mask_share.max(initial=0.0)),
        "problems": problems(pairs, tolerance),
    }


def problems(pairs, tolerance):
    """What is beyond tolerance, a list of sentences."""
    limits = {name: value for name, value in tolerance._asdict().items() if name != "unmatched"}
    allowed = 2 * tolerance.unmatched * pairs.kept
    checks = (
        (
            len(pairs.score) + pairs.unmatched < LEAST_COMPARED,
            f"{len(pairs.score)} objects compared, fewer than {LEAST_COMPARED}: no proof; "
            "lower --score-threshold or give other --pictures",
        ),
        (
            pairs.unmatched > allowed,
            f"{pairs.unmatched} objects of either side without counterpart within {limits}; "
            f"{allowed:.0f} may be, of {pairs.kept} that the model has",
        ),
    )
    return [sentence for wrong, sentence in checks if wrong]


def write_report(out, report):
    """Writes OUT.parity.json beside `out` and prints what is short of it."""
    path = pathlib.Path(f"{out}.parity.json")
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shown = {name: value for name, value in report.items() if not isinstance(value, dict | list)}
    print(f"{path}: {shown}")


def mask_iou(first, second):
    """IoU of two bool masks, 1 where at most `SPARE_PIXELS` pixels differ."""
    differing = np.count_nonzero(first != second)
    if differing <= SPARE_PIXELS:
        return 1.0
    return 1.0 - differing / np.count_nonzero(first | second)


def _scaled(answer, scale):
    """`answer` with its boxes multiplied by `scale` (y, x)."""
    return answer._replace(boxes=answer.boxes * np.asarray([scale[1], scale[0]] * 2, "float32"))


def _matches(expected, got, tolerance):
    """Rows of `expected` and of `got` that are the same object; the best overlaps first, each row
    once."""
    overlaps = _ious(expected, got)
    fits = (expected.labels[:, None] == got.labels) & (overlaps > tolerance.box_iou)
    fits &= _edge_differences(expected, got) <= tolerance.box_px
    fits &= _score_differences(expected, got) <= tolerance.score
    overlaps = np.where(fits & (overlaps >= _SAME_OBJECT), overlaps, 0.0)
    pairs = []
    while overlaps.size and overlaps.max() > 0.0:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        if _masks_agree(expected.masks[row], got.masks[column], tolerance):
            pairs.append((row, column))
        overlaps[row], overlaps[:, column] = 0.0, 0.0
    return tuple(np.asarray(pairs, int).reshape(-1, 2).T)


def _masks_agree(first, second, tolerance):
    """Whether two masks are within tolerance."""
    shares = np.mean(first != second) <= tolerance.mask_share
    return shares and mask_iou(first, second) >= tolerance.mask_iou


def _without(answer, matched, tolerance, most):
    """How many objects that need a counterpart have none."""
    needed = answer.scores >= tolerance.least_score
    if len(answer.scores) == most:
        needed &= answer.scores > answer.scores.min() + tolerance.score
    return int(needed.sum() - needed[matched].sum())


def _ious(expected, got):
    """Box IoU of each with each, `[N, M]`; 1 for equal boxes, also without area."""
    same = np.all(expected.boxes[:, None] == got.boxes[None], axis=-1)
    if not same.size:
        return same.astype("float32")
    return np.where(same, 1.0, np.asarray(box_iou(expected.boxes, got.boxes)))


def _edge_differences(expected, got):
    """The largest difference of an edge of each with each, `[N, M]`."""
    return np.abs(expected.boxes[:, None] - got.boxes[None]).max(axis=-1, initial=0.0)


def _score_differences(expected, got):
    """The larger difference of the two scores of each with each, `[N, M]`."""
    pairs = (expected.scores, got.scores), (expected.box_scores, got.box_scores)
    return np.maximum(*(np.abs(first[:, None] - second) for first, second in pairs))
