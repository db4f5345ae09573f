"""How far a .tflite file's answers may be from those of its model, and how far they are."""

from typing import NamedTuple

import numpy as np
from comparison import LEAST_KEPT, mask_iou

from pac_keras.boxes import box_iou
from pac_keras.systems.base_one_stage import OneStageSegmenter

_SAME_OBJECT = 0.5  # box IoU from which two objects of a class can be one


class Tolerance(NamedTuple):
    """What is allowed.

    box_iou, mask_iou: the smallest; score, box_px: the largest differences, the latter in pixels
        of the network's input. An object beyond box_iou, score or box_px of all others has no
        counterpart.
    unmatched: share of objects without counterpart.
    least_score: only objects that score above it need one.
    """

    box_iou: float = 0.99
    box_px: float = np.inf
    score: float = 1e-3
    mask_iou: float = 0.98
    unmatched: float = 0.0
    least_score: float = 0.0


# Rounding weights moves an object across a threshold here and there; quantised files are judged by
# their AP, and here only asked for the objects that the model is sure of.
TOLERANCES = {
    "float32": Tolerance(),
    "float16": Tolerance(0.5, 0.5, 0.01, 0.9, unmatched=0.02, least_score=0.05),
    "dynamic": Tolerance(0.5, score=1.0, mask_iou=0.5, unmatched=0.1, least_score=0.5),
    "int8": Tolerance(0.5, score=1.0, mask_iou=0.5, unmatched=0.1, least_score=0.5),
}


class Found(NamedTuple):
    """The objects of one picture that are compared.

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

    Arrays of one row for each pair: box IoU, largest difference of an edge in pixels of the
    network's input, of the two scores, mask IoU.
    """

    kept: int
    unmatched: int
    box_iou: np.ndarray
    box_px: np.ndarray
    score: np.ndarray
    mask_iou: np.ndarray


def tolerance_of(model, precision):
    """`Tolerance` of a file; edges that are whole pixels, as `MBRM` puts them, may move by one."""
    tolerance = TOLERANCES[precision]
    if isinstance(model, OneStageSegmenter) and model.box_refinement != "none":
        return tolerance._replace(box_px=max(tolerance.box_px, 1.01))
    return tolerance


def compare(expected, got, tolerance, most):
    """`Pairs` of two answers for one picture.

    Args:
        expected, got: `Found`, boxes in pixels of the network's input.
        tolerance: `Tolerance`.
        most: objects that an answer can hold. Where it is full, those that score like the last
            one need no counterpart: rounding decides which of them are in.
    """
    rows, columns = _matches(expected, got, tolerance)
    sides = ((expected, rows), (got, columns))
    missing = sum(_without(side, found, tolerance, most) for side, found in sides)
    sure = expected.scores[rows] >= tolerance.least_score
    rows, columns = rows[sure], columns[sure]
    boxes = expected.boxes[rows], got.boxes[columns]
    masks = [mask_iou(*two) for two in zip(expected.masks[rows], got.masks[columns], strict=True)]
    return Pairs(
        kept=int(np.sum(expected.scores >= tolerance.least_score)),
        unmatched=missing,
        box_iou=_ious(expected, got)[rows, columns],
        box_px=np.abs(boxes[0] - boxes[1]).max(axis=-1, initial=0.0),
        score=_score_differences(expected, got)[rows, columns],
        mask_iou=np.asarray(masks),
    )


def in_input(answer, scale):
    """`Found` in pixels of the network's input, of which `scale` (y, x) make one of the picture's.

    Args:
        answer: with the same fields in the picture's own pixels.
    """
    boxes = answer.boxes * np.asarray([scale[1], scale[0]] * 2, "float32")
    return Found(boxes, *(getattr(answer, name) for name in Found._fields[1:]))


def together(pairs):
    """One `Pairs` over several pictures."""
    counts = [sum(one[field] for one in pairs) for field in range(2)]
    return Pairs(
        *counts, *(np.concatenate(arrays) for arrays in list(zip(*pairs, strict=True))[2:])
    )


def figures(pairs):
    """The report's part about differences."""
    return {
        "objects": pairs.kept,
        "unmatched": pairs.unmatched,
        "smallest_box_iou": float(pairs.box_iou.min(initial=1.0)),
        "largest_box_difference_px": float(pairs.box_px.max(initial=0.0)),
        "largest_score_difference": float(pairs.score.max(initial=0.0)),
        "smallest_mask_iou": float(pairs.mask_iou.min(initial=1.0)),
        "mean_mask_iou": float(pairs.mask_iou.mean()) if len(pairs.mask_iou) else 1.0,
    }


def problems(pairs, tolerance):
    """What is beyond tolerance, a list of sentences."""
    least_iou = pairs.mask_iou.min(initial=1.0)
    checks = (
        (
            pairs.kept < LEAST_KEPT,
            f"{pairs.kept} objects kept, fewer than {LEAST_KEPT}: nothing was compared; lower "
            "--score-threshold or give other --pictures",
        ),
        (
            pairs.unmatched > 2 * tolerance.unmatched * pairs.kept,
            f"{pairs.unmatched} objects of either side without counterpart within {tolerance}; "
            f"the model has {pairs.kept}",
        ),
        (least_iou < tolerance.mask_iou, f"mask IoU {least_iou:.4f} < {tolerance.mask_iou}"),
    )
    return [sentence for wrong, sentence in checks if wrong]


def _matches(expected, got, tolerance):
    """Rows of `expected` and of `got` that are pairs; the best overlaps first, each row once."""
    overlaps = _ious(expected, got)
    edges = np.abs(expected.boxes[:, None] - got.boxes[None]).max(axis=-1, initial=0.0)
    fits = (expected.labels[:, None] == got.labels) & (overlaps > tolerance.box_iou)
    fits &= (edges <= tolerance.box_px) & (_score_differences(expected, got) <= tolerance.score)
    overlaps = np.where(fits & (overlaps >= _SAME_OBJECT), overlaps, 0.0)
    pairs = []
    while overlaps.size and overlaps.max() > 0.0:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        pairs.append((row, column))
        overlaps[row], overlaps[:, column] = 0.0, 0.0
    return tuple(np.asarray(pairs, int).reshape(-1, 2).T)


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


def _score_differences(expected, got):
    """The larger difference of the two scores of each with each, `[N, M]`."""
    pairs = (expected.scores, got.scores), (expected.box_scores, got.box_scores)
    return np.maximum(*(np.abs(first[:, None] - second) for first, second in pairs))
