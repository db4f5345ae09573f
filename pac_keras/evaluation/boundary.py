"""Boundary F-measure: how much of the contours of found and true masks lies on each other."""

import numpy as np
from pycocotools import mask as coco_mask

DISTANCES = {"F_1px": 1, "F_3px": 3}  # pixels of the original picture
_REACH = max(DISTANCES.values())

# Steps to the pixels that may be near, and the squares of their lengths.
_DY, _DX = np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1].reshape(2, -1)
_SQUARES = _DY**2 + _DX**2


def boundary_f(pairs):
    """{"F_1px": F, "F_3px": F}: means over the pairs in [0, 1]; -1 (COCO's sign) without a pair.

    A mask's contour is its pixels that have a 4-neighbour outside the mask; what lies outside the
    picture is outside the mask. At distance d, precision is the share of the detection's contour
    with a contour pixel of the object at most d pixels away (Euclidean, between pixel centres),
    recall is the converse, and F = 2 P R / (P + R).

    Args:
        pairs: run lengths (detection's mask, object's mask), e.g. of `matched_masks`.
    Source: F_1px and F_3px of Zhang et al. 2021 (RefineMask), appendix.
    """
    rows = [_pair_f(*pair) for pair in pairs]
    means = np.mean(rows, axis=0) if rows else [-1.0] * len(DISTANCES)
    return dict(zip(DISTANCES, map(float, means), strict=True))


def matched_masks(evaluator):
    """Yields the run lengths (detection's mask, object's mask) that COCO's matching pairs.

    At the lowest threshold (mask IoU 0.50), among the best 100 detections of a picture and class,
    objects of all areas; what is matched with a crowd is left out.

    Args:
        evaluator: pycocotools' `COCOeval` for "segm" after `evaluate`.
    """
    found, truth = evaluator.cocoDt.anns, evaluator.cocoGt.anns
    for matching in evaluator.evalImgs:  # one per class, area range and picture
        if matching is None or matching["aRng"] != evaluator.params.areaRng[0]:
            continue
        matches, ignored = matching["dtMatches"][0], matching["dtIgnore"][0]
        for number, match, ignore in zip(matching["dtIds"], matches, ignored, strict=True):
            if match and not ignore:
                yield found[number]["segmentation"], truth[int(match)]["segmentation"]


def _pair_f(detection, truth):
    """F of one pair of run lengths at each of `DISTANCES`."""
    predicted, expected = (_contour(mask) for mask in _cut(detection, truth))
    precision, recall = _shares_near(predicted, expected), _shares_near(expected, predicted)
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)


def _cut(*run_lengths):
    """bool masks, cut to the box around all of them with `_REACH` empty pixels on each side."""
    x, y, width, height = coco_mask.toBbox(coco_mask.merge(list(run_lengths))).astype(int)
    window = slice(y, y + height), slice(x, x + width)
    return [np.pad(coco_mask.decode(one)[window].astype(bool), _REACH) for one in run_lengths]


def _contour(mask):
    """bool, as `mask`, whose outermost rows and columns are empty."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return mask & ~inner


def _shares_near(contour, other):
    """float `[D]`: share of `contour`'s pixels that have one of `other` within each distance.

    Only what surrounds the contour is looked up: its pixels are few beside the area's.
    """
    pixels = np.flatnonzero(contour)
    around = other.ravel()[pixels[:, None] + _DY * contour.shape[1] + _DX]
    near = [around[:, distance**2 >= _SQUARES].any(axis=1) for distance in DISTANCES.values()]
    return np.sum(near, axis=1) / max(len(pixels), 1)
