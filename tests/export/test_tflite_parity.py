"""The comparison of a .tflite file with its model sees each kind of difference."""

import numpy as np
import pytest
import tflite_parity
from tflite_parity import TOLERANCES, Found, Tolerance, compare, problems, together


def objects(count=12):
    """`Found`: `count` squares on a diagonal."""
    corner = np.arange(count, dtype="float32")[:, None] * 10
    masks = np.zeros((count, 130, 130), bool)
    for row in range(count):
        masks[row, row * 10 : row * 10 + 8, row * 10 : row * 10 + 8] = True
    return Found(
        boxes=np.concatenate([corner, corner, corner + 8, corner + 8], axis=1),
        labels=np.arange(count) % 3,
        scores=np.linspace(0.9, 0.1, count),
        box_scores=np.linspace(0.8, 0.2, count),
        masks=masks,
    )


def test_equal_answers_do_not_differ_in_any_order():
    turned = Found(*(field[::-1] for field in objects()))
    pairs = compare(objects(), turned, TOLERANCES["float32"], 100)
    assert (pairs.kept, pairs.unmatched) == (12, 0)
    assert problems(pairs, TOLERANCES["float32"]) == []
    assert tflite_parity.figures(pairs)["largest_box_difference_px"] == 0.0


@pytest.mark.parametrize(
    ("field", "change", "word"),
    [
        ("boxes", lambda boxes: boxes + 0.1, "counterpart"),
        ("labels", lambda labels: (labels + 1) % 3, "counterpart"),
        ("scores", lambda scores: scores * 0.99, "counterpart"),
        ("box_scores", lambda scores: scores + 0.01, "counterpart"),
        ("masks", lambda masks: np.roll(masks, 1, axis=1), "mask IoU"),
    ],
)
def test_each_kind_of_difference_is_a_problem(field, change, word):
    wrong = objects()._replace(**{field: change(getattr(objects(), field))})
    pairs = compare(objects(), wrong, TOLERANCES["float32"], 100)
    (problem,) = problems(pairs, TOLERANCES["float32"])
    assert word in problem


def test_float16_allows_half_a_pixel_and_a_hundredth():
    near = objects()._replace(boxes=objects().boxes + 0.4, scores=objects().scores + 0.009)
    far = objects()._replace(boxes=objects().boxes + 0.6)
    tolerance = TOLERANCES["float16"]
    assert problems(compare(objects(), near, tolerance, 100), tolerance) == []
    assert problems(compare(objects(), far, tolerance, 100), tolerance)


def test_only_sure_objects_need_a_counterpart():
    tolerance = Tolerance(least_score=0.5)
    fewer = Found(*(field[:9] for field in objects()))  # the others score below 0.5
    assert compare(objects(), fewer, tolerance, 100).unmatched == 0
    fewer = Found(*(field[1:] for field in objects()))
    assert compare(objects(), fewer, tolerance, 100).unmatched == 1
    assert compare(fewer, objects(), tolerance, 100).unmatched == 1


def test_the_last_of_a_full_answer_may_be_another():
    other = objects().boxes.copy()
    other[-1] += 2
    other = objects()._replace(boxes=other)
    assert compare(objects(), other, Tolerance(), 12).unmatched == 0
    assert compare(objects(), other, Tolerance(), 13).unmatched == 2


def test_empty_answers_prove_nothing():
    empty = Found(*(field[:0] for field in objects()))
    pairs = compare(empty, empty, Tolerance(), 12)
    assert "fewer than 10" in problems(pairs, Tolerance())[0]
    both = together([pairs, compare(objects(), empty, Tolerance(), 100)])
    assert (both.kept, both.unmatched) == (12, 12)
