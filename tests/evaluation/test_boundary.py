"""Boundary F by hand and by brute force; boundary AP as the evaluator itself gives it."""

import json
from pathlib import Path

import faster_coco_eval
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pac_keras.detections.paste import encode
from pac_keras.evaluation import coco
from pac_keras.evaluation.boundary import boundary_f, matched_masks

TRUTH = Path(__file__).parents[1] / "data" / "evaluator_truth"
TRUTH_FILE = str(TRUTH / "instances_val2014_100.json")
MASKS_FILE = str(TRUTH / "instances_val2014_fakesegm100_results.json")
SIZE = (24, 40)
NONE = {"F_1px": -1.0, "F_3px": -1.0}


def square(x0, y0, side=8, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y0 : y0 + side, x0 : x0 + side] = True
    return mask


def f_of(detection, truth):
    found = boundary_f([(encode(detection), encode(truth))])
    assert found == pytest.approx(boundary_f([(encode(truth), encode(detection))]))  # P <-> R
    return found["F_1px"], found["F_3px"]


# The contour of a square of side 8 has 28 pixels; P = R as both have the same shape.
@pytest.mark.parametrize(
    ("shift", "near_1px", "near_3px"),
    [
        (0, 28, 28),
        (1, 28, 28),
        # 7 of 8 in the upper and the lower edge, and the 2 pixels next to these in the right edge
        (2, 16, 28),
        # 1 px: 5 + 5 + 2 in the same way. 3 px: 7 + 7, and the right edge between the corners (6)
        (4, 12, 20),
        (20, 0, 0),
    ],
)
def test_shifted_square(shift, near_1px, near_3px):
    expected = pytest.approx((near_1px / 28, near_3px / 28))
    assert f_of(square(2, 10), square(2 + shift, 10)) == expected
    assert f_of(square(2, 10).T, square(2 + shift, 10).T) == expected


def test_the_pictures_border_is_a_contour():
    # A full picture's contour are its 36 border pixels; that of the square one pixel inside are 28,
    # all 1 pixel away. From the four corners it is sqrt(2): P = 1, R = 32/36.
    full, inside = np.ones((10, 10), bool), square(1, 1, size=(10, 10))
    assert f_of(inside, full) == pytest.approx((16 / 17, 1.0))


def test_distances_are_euclidean():
    # Single pixels, (dy, dx) apart: sqrt(8) < 3 < sqrt(10)
    values = [f_of(square(5, 5, 1), square(5 + dx, 5 + dy, 1)) for dy, dx in [(2, 2), (1, 3)]]
    assert values == [(0.0, 1.0), (0.0, 0.0)]


def test_empty_mask_gives_zero():
    empty = np.zeros(SIZE, bool)
    assert f_of(empty, square(2, 10)) == f_of(empty, empty) == (0.0, 0.0)


def test_mean_over_pairs():
    pairs = [(encode(square(x, 10)), encode(square(2, 10))) for x in (2, 4, 6)]
    assert boundary_f(iter(pairs)) == pytest.approx({"F_1px": 56 / 84, "F_3px": 76 / 84})
    assert boundary_f([]) == NONE


def brute_force_f(predicted, expected, distance):
    one, other = (np.argwhere(brute_force_contour(mask)) for mask in (predicted, expected))
    apart = np.hypot(*(one[:, None] - other[None]).transpose(2, 0, 1))
    precision = (apart.min(axis=1) <= distance).mean()
    recall = (apart.min(axis=0) <= distance).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def brute_force_contour(mask):
    height, width = mask.shape
    contour = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        for near_y, near_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= near_y < height and 0 <= near_x < width
            contour[y, x] |= not (inside and mask[near_y, near_x])
    return contour


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_random_masks_equal_brute_force(share):
    random = np.random.default_rng(0)
    for _ in range(5):
        one, other = random.random((2, 19, 27)) < share
        expected = [brute_force_f(one, other, distance) for distance in (1, 3)]
        assert f_of(one, other) == pytest.approx(tuple(expected))


def evaluate(objects, detections, **options):
    """The metrics; rows are (mask, picture, category), detections the best first."""
    annotations = [
        {
            "image_id": picture,
            "category_id": category,
            "area": int(mask.sum()),
            "bbox": [0, 0, 1, 1],
            "iscrowd": int(crowd),
            "segmentation": encode(mask),
        }
        for mask, picture, category, crowd in objects
    ]
    results = [
        {
            "image_id": picture,
            "category_id": category,
            "score": 1 - k / 100,
            "segmentation": encode(mask),
        }
        for k, (mask, picture, category) in enumerate(detections)
    ]
    truth = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    return coco.coco_metrics(truth, [], results, boundary=True, **options)


def measured(objects, detections, **options):
    found = evaluate(objects, detections, **options)["boundary"]
    return {name: found[name] for name in NONE}


OBJECT, FOUND = (square(2, 10), 1, 1, False), (square(4, 10), 1, 1)  # IoU 0.6
PAIR = pytest.approx({"F_1px": 16 / 28, "F_3px": 1.0})


def test_f_is_among_the_boundary_metrics_alone():
    metrics = evaluate([OBJECT], [FOUND])
    assert set(metrics["boundary"]) == {*coco.METRICS, "F_1px", "F_3px"}
    assert set(metrics["mask"]) == set(metrics["box"]) == set(coco.METRICS)
    # Mask IoU 0.6: three of ten thresholds. The contours share 12 of 44 pixels.
    assert (metrics["mask"]["AP"], metrics["boundary"]["AP"]) == (pytest.approx(0.3), 0.0)


def test_what_has_no_partner_changes_nothing():
    missed, elsewhere = (square(20, 10), 1, 1, False), (square(30, 2), 1, 1)
    second, other_class = (square(2, 10), 1, 1), (square(20, 10), 1, 2)
    assert measured([OBJECT], [FOUND]) == PAIR
    assert measured([OBJECT, missed], [elsewhere, FOUND, second, other_class]) == PAIR


def test_crowd_is_left_out():
    crowd, in_crowd = (square(20, 2, 16), 1, 1, True), (square(20, 2), 1, 1)
    assert measured([OBJECT, crowd], [in_crowd, FOUND]) == PAIR
    assert measured([crowd], [in_crowd]) == NONE


def test_without_a_pair():
    assert measured([OBJECT], []) == measured([], [FOUND]) == NONE
    assert measured([OBJECT], [(square(6, 10), 1, 1)]) == NONE  # IoU 1/3
    assert measured([OBJECT], [(square(4, 10), 2, 1)]) == NONE


def test_mean_over_pictures_and_classes():
    other, exact = (square(20, 2, 20), 2, 2, False), (square(20, 2, 20), 2, 2)
    both = pytest.approx({"F_1px": 44 / 56, "F_3px": 1.0})
    assert measured([OBJECT, other], [FOUND, exact]) == both
    assert measured([OBJECT, other], [FOUND, exact], image_ids=[1]) == PAIR


def test_pairs_are_as_many_as_the_evaluator_recalls():
    truth = COCO(TRUTH_FILE)
    evaluator = COCOeval(truth, truth.loadRes(MASKS_FILE), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    counts = [
        sum(not one["iscrowd"] for one in truth.loadAnns(truth.getAnnIds(catIds=category_id)))
        for category_id in evaluator.params.catIds
    ]
    recall = evaluator.eval["recall"][0, :, 0, -1]  # IoU 0.50, all areas, 100 detections
    expected = np.sum(np.where(recall < 0, 0, recall) * counts)
    assert len(list(matched_masks(evaluator))) == round(expected) > 300


def test_boundary_ap_is_the_evaluators_own():
    truth = faster_coco_eval.COCO(TRUTH_FILE)
    evaluator = faster_coco_eval.COCOeval_faster(truth, truth.loadRes(MASKS_FILE), "boundary")
    evaluator.run()
    content, masks = (json.loads(Path(file).read_text()) for file in (TRUTH_FILE, MASKS_FILE))
    metrics = coco.coco_metrics(content, [], masks, boundary=True)
    ours = [metrics["boundary"][name] for name in coco.METRICS]
    assert ours == pytest.approx(list(evaluator.stats), abs=1e-6)
    assert 0.1 < ours[0] < metrics["mask"]["AP"] - 0.01  # not mask AP by another name
    precision = evaluator.eval["precision"][..., 0, -1]  # [IoU, recall, class]
    for k, category_id in enumerate(evaluator.params.catIds):
        known = precision[..., k][precision[..., k] > -1]
        name = coco.class_names(content["categories"])[category_id]
        expected = known.mean() if known.size else -1.0
        assert metrics["per_class"][name]["boundary"] == pytest.approx(expected, abs=1e-6)
