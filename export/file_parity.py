"""Whether a file of one input size answers as its model does, and the report beside the file."""

import json
import pathlib

import numpy as np
from comparison import (
    IOU_TOLERANCE,
    LEAST_KEPT,
    SCORE_TOLERANCE,
    Difference,
    compare,
    own_pixels,
    total,
)
from metadata import fitted_images

from pac_keras.boxes import box_iou

BOX_IOU_TOLERANCE = 0.99  # of an object of the model and one of the file, equal in class and score


def compare_all(model, images, answers, canvas):
    """(what differs, sentences; the figures, a dict) over all pictures.

    Args:
        images: uint8 `[H, W, 3]` each.
        answers: the file's `Answer` for each.
        canvas: (height, width) of the file's input.
    """
    differences, missing = [], 0
    for image, got in zip(images, answers, strict=True):
        expected = eager_answer(model, image, canvas)
        differences.append(compare(expected, got))
        missing += unmatched(expected, got)
    together = total(differences)
    return problems(together, missing), figures(together, missing, len(images))


def eager_answer(model, image, canvas):
    """`Answer` of the model itself for a picture on a canvas of that (height, width)."""
    images = fitted_images(image, canvas, model.preprocessing)
    return own_pixels(model, model(images), images.sizes[0], image.shape[:2])


def unmatched(expected, got):
    """Objects of either `Answer` without one of the other that is equal but for rounding."""
    alike = expected.category_ids[:, None] == got.category_ids
    for first, second in ((expected.scores, got.scores), (expected.box_scores, got.box_scores)):
        alike &= np.abs(first[:, None] - second) <= SCORE_TOLERANCE
    same = np.all(expected.boxes[:, None] == got.boxes, axis=-1)  # also where without area
    if not alike.size:
        return len(expected.labels) + len(got.labels)
    overlaps = np.asarray(box_iou(expected.boxes[None], got.boxes[None]))[0]
    alike &= same | (overlaps > BOX_IOU_TOLERANCE)
    return int(np.sum(~alike.any(axis=0)) + np.sum(~alike.any(axis=1)))


def problems(difference: Difference, missing):
    """What is beyond tolerance, a list of sentences."""
    checks = (
        (
            difference.kept < LEAST_KEPT,
            f"{difference.kept} objects kept, fewer than {LEAST_KEPT}: nothing was compared; "
            "lower --score-threshold or give other --pictures",
        ),
        (
            missing,
            f"{missing} objects of either side without counterpart (box IoU > "
            f"{BOX_IOU_TOLERANCE}, scores within {SCORE_TOLERANCE}); "
            f"the model has {difference.kept}",
        ),
        (difference.iou < IOU_TOLERANCE, f"mask IoU {difference.iou:.4f} < {IOU_TOLERANCE}"),
    )
    return [sentence for wrong, sentence in checks if wrong]


def figures(difference: Difference, missing, pictures):
    """The report's part about differences."""
    return {
        "pictures": pictures,
        "kept": difference.kept,
        "unmatched": missing,
        "largest_box_difference_px": difference.boxes,
        "largest_score_difference": difference.scores,
        "smallest_mask_iou": difference.iou,
    }


def write_report(file, report):
    """Writes FILE's .parity.json beside it; its path."""
    path = pathlib.Path(file).with_suffix(".parity.json")
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path
