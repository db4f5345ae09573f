"""The comparison of an exported file with its model sees each kind of difference."""

import numpy as np
import pytest
from comparison import TOLERANCES, Answer, Tolerance, compare, problems, summary, together


def objects(count=12):
    """`Answer`: `count` squares on a diagonal."""
    corner = np.arange(count, dtype="float32")[:, None] * 10
    masks = np.zeros((count, 130, 130), bool)
    for row in range(count):
        masks[row, row * 10 : row * 10 + 8, row * 10 : row * 10 + 8] = True
    return Answer(
        boxes=np.concatenate([corner, corner, corner + 8, corner + 8], axis=1),
        labels=np.arange(count) % 3,
        scores=np.linspace(0.9, 0.1, count),
        box_scores=np.linspace(0.8, 0.2, count),
        masks=masks,
    )


def test_equal_answers_do_not_differ_in_any_order():
    turned = Answer(*(field[::-1] for field in objects()))
    pairs = compare(objects(), turned, TOLERANCES["float32"], 100)
    assert (pairs.kept, pairs.unmatched) == (12, 0)
    report = summary([pairs, pairs], TOLERANCES["float32"])
    assert report["problems"] == [] and report["largest_box_difference_px"] == 0.0
    assert (report["objects"], report["fewest_objects_of_a_picture"]) == (24, 12)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("boxes", lambda boxes: boxes + 0.1),
        ("labels", lambda labels: (labels + 1) % 3),
        ("scores", lambda scores: scores * 0.99),
        ("box_scores", lambda scores: scores + 0.01),
        ("masks", lambda masks: np.roll(masks, 1, axis=1)),
    ],
)
@pytest.mark.parametrize("kind", ["float32", "SavedModel"])
def test_each_kind_of_difference_is_a_problem(field, change, kind):
    wrong = objects()._replace(**{field: change(getattr(objects(), field))})
    (problem,) = problems(compare(objects(), wrong, TOLERANCES[kind], 100), TOLERANCES[kind])
    assert "objects of either side without counterpart within" in problem


def test_a_saved_model_may_differ_in_a_thousandth_of_a_masks_pixels():
    tolerance, masks = TOLERANCES["SavedModel"], objects().masks
    masks[:, 100:116, 0] = True  # of 130 x 130 pixels
    near = compare(objects(), objects()._replace(masks=masks), Tolerance(mask_iou=0.5), 100)
    assert near.unmatched == 0 and near.mask_share.max() == pytest.approx(16 / 16900)
    masks[:, 100:118, 0] = True
    assert compare(objects(), objects()._replace(masks=masks), tolerance, 100).unmatched == 24


def test_differences_of_boxes_are_told_in_the_networks_pixels():
    other = objects()._replace(boxes=objects().boxes + np.asarray([0, 0.2, 0, 0.2], "float32"))
    pairs = compare(objects(), other, Tolerance(box_iou=0.5), 100, scale=(0.5, 3.0))
    np.testing.assert_allclose(pairs.box_px, 0.1, rtol=1e-4)


def test_one_object_in_two_hundred_may_have_been_decided_otherwise():
    corner = np.arange(200, dtype="float32")[:, None] * 10
    many = objects(200)._replace(boxes=np.concatenate([corner, corner, corner + 8, corner + 8], 1))
    other = many.boxes.copy()
    other[7] += 4  # another of two boxes that overlap as much as the suppression allows
    found = compare(many, many._replace(boxes=other), Tolerance(), 1000)
    assert (found.kept, found.unmatched) == (200, 2) and problems(found, Tolerance()) == []
    other[8] += 4
    found = compare(many, many._replace(boxes=other), Tolerance(), 1000)
    assert "2 may be, of 200" in problems(found, Tolerance())[0]


def test_float16_allows_half_a_pixel_and_a_hundredth():
    near = objects()._replace(boxes=objects().boxes + 0.4, scores=objects().scores + 0.009)
    far = objects()._replace(boxes=objects().boxes + 0.6)
    tolerance = TOLERANCES["float16"]
    assert problems(compare(objects(), near, tolerance, 100), tolerance) == []
    assert problems(compare(objects(), far, tolerance, 100), tolerance)


def test_only_sure_objects_need_a_counterpart():
    tolerance = Tolerance(least_score=0.5)
    fewer = Answer(*(field[:9] for field in objects()))  # the others score below 0.5
    assert compare(objects(), fewer, tolerance, 100).unmatched == 0
    fewer = Answer(*(field[1:] for field in objects()))
    assert compare(objects(), fewer, tolerance, 100).unmatched == 1
    assert compare(fewer, objects(), tolerance, 100).unmatched == 1


def test_the_last_of_a_full_answer_may_be_another():
    other = objects().boxes.copy()
    other[-1] += 2
    other = objects()._replace(boxes=other)
    assert compare(objects(), other, Tolerance(), 12).unmatched == 0
    assert compare(objects(), other, Tolerance(), 13).unmatched == 2


def test_empty_answers_prove_nothing():
    empty = Answer(*(field[:0] for field in objects()))
    pairs = compare(empty, empty, Tolerance(), 12)
    assert "fewer than 10" in problems(pairs, Tolerance())[0]
    both = together([pairs, compare(objects(), empty, Tolerance(), 100)])
    assert (both.kept, both.unmatched) == (12, 12)
