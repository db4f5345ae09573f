import contextlib

import numpy as np
import pytest
from builders import compiled, numpy

from pac_keras.detections.select import nms, select, select_fast
from pac_keras.kernels import portable

PATHS = {"kernels": contextlib.nullcontext, "portable": portable}


@pytest.fixture(params=PATHS)
def path(request):
    """The two implementations, as contexts."""
    return PATHS[request.param]


def kept(boxes, scores, threshold=0.5, max_outputs=None):
    """Rows that `nms` keeps in one picture; checks that padding comes last and is 0."""
    boxes, scores = np.asarray([boxes], "float32"), np.asarray([scores], "float32")
    count = scores.shape[1] if max_outputs is None else max_outputs
    rows, valid = compiled(lambda b, s: nms(b, s, threshold, count))(boxes, scores)
    rows, valid = numpy(rows)[0], numpy(valid)[0]
    assert rows.shape == valid.shape == (count,)
    assert (np.diff(valid) <= 0).all()
    assert not rows[valid == 0].any()
    return rows[valid > 0].tolist()


SQUARE = [0, 0, 10, 10]
BOXES = [SQUARE, [0, 0, 10, 9], [0, 0, 10, 5], [30, 30, 40, 40], [31, 30, 41, 40]]


def test_suppression_by_hand(path):
    with path():
        # .9, .5 and 0 with the first; the third exactly at the threshold stays
        assert kept(BOXES, [0.9, 0.8, 0.7, 0.6, 0.5]) == [0, 2, 3]
        assert kept(BOXES, [0.5, 0.6, 0.7, 0.8, 0.9]) == [4, 2, 0]
        assert kept(BOXES, [0.9, 0.8, 0.7, 0.6, 0.5], threshold=0.95) == [0, 1, 2, 3, 4]


def test_a_suppressed_box_suppresses_nothing(path):
    chain = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]  # neighbours .43, ends .11
    with path():
        assert kept(chain, [0.9, 0.8, 0.7], threshold=0.4) == [0, 2]


def test_of_equal_scores_the_lower_row_wins(path):
    with path():
        assert kept([SQUARE] * 3 + [[50, 50, 60, 60]], [0.5, 0.5, 0.5, 0.5]) == [0, 3]


def test_rows_with_negative_scores_take_no_part_and_zero_is_a_score(path):
    with path():
        assert kept(BOXES, [-1, 0.0, -0.5, -1, 0.2]) == [4, 1]
        assert kept(BOXES, [-1] * 5) == []


def test_fewer_outputs_than_survivors_and_more_than_rows(path):
    with path():
        assert kept(BOXES, [0.9, 0.8, 0.7, 0.6, 0.5], max_outputs=2) == [0, 2]
        assert kept(BOXES, [0.9, 0.8, 0.7, 0.6, 0.5], max_outputs=9) == [0, 2, 3]


def test_empty_boxes_do_not_suppress(path):
    with path():
        assert kept([[5, 5, 5, 5]] * 2 + [SQUARE], [0.9, 0.8, 0.7]) == [0, 1, 2]


def test_pictures_are_independent(path):
    boxes = np.asarray([BOXES, BOXES], "float32")
    scores = np.asarray([[0.9, 0.8, 0.7, 0.6, 0.5], [-1, -1, 0.1, 0.2, 0.3]], "float32")
    with path():
        rows, valid = compiled(lambda b, s: nms(b, s, 0.5, 4))(boxes, scores)
    np.testing.assert_array_equal(numpy(rows), [[0, 2, 3, 0], [4, 2, 0, 0]])
    np.testing.assert_array_equal(numpy(valid), [[1, 1, 1, 0], [1, 1, 0, 0]])


@pytest.mark.parametrize("threshold", ["0.3", "0.5", "0.7"])
def test_suppression_agrees_with_the_reference(reference, path, threshold):
    case = reference("nms/")
    with path():
        rows = kept(case["boxes"], case["scores"], float(threshold))
    np.testing.assert_array_equal(rows, case[f"keep_{threshold}"])


@pytest.mark.parametrize("threshold", ["0.3", "0.5", "0.7"])
def test_class_wise_suppression_agrees_with_the_reference(reference, path, threshold):
    case = reference("nms/")
    scores = np.zeros((1, 120, 4), "float32")
    scores[0, np.arange(120), case["class_ids"]] = case["scores"]
    with path():
        rows, labels, best, valid = choose(case["boxes"][None] + 30, scores, 0, float(threshold))
    expected = case[f"batched_keep_{threshold}"]
    assert valid.sum() == len(expected)
    np.testing.assert_array_equal(rows[: len(expected)], expected)
    np.testing.assert_array_equal(labels[: len(expected)], case["class_ids"][expected])
    np.testing.assert_array_equal(best[: len(expected)], case["scores"][expected])


def choose(boxes, scores, score_threshold, nms_threshold, candidates=1000, detections=120):
    """`select` of one picture as NumPy arrays."""
    function = compiled(
        lambda b, s: select(b, s, score_threshold, nms_threshold, candidates, detections)
    )
    return [numpy(x)[0] for x in function(np.asarray(boxes, "float32"), scores)]


@pytest.mark.parametrize("shared", [True, False])
def test_final_detections_agree_with_the_reference(reference, path, shared):
    case = reference("multiclass_nms/")
    boxes = case["boxes"].reshape(1, 40, 5, 4) + 40  # `select` takes boxes that are not negative
    boxes = boxes[:, :, 0] if shared else boxes
    prefix = "agnostic_box_" if shared else ""
    with path():
        rows, labels, scores, valid = choose(boxes, case["scores"][None, :, :5], 0.05, 0.5, 200, 30)
    np.testing.assert_array_equal(valid, np.ones(30))
    np.testing.assert_array_equal(labels, case[f"{prefix}labels"])
    chosen = boxes[0, rows] if shared else boxes[0, rows, labels]
    found = np.concatenate([chosen - 40, scores[:, None]], axis=1)
    np.testing.assert_allclose(found, case[f"{prefix}dets"], atol=1e-5)


SCORES = np.asarray([[[0.9, 0.3], [0.8, 0.7], [0.2, 0.1]]], "float32")


def test_classes_do_not_suppress_each_other(path):
    with path():
        rows, labels, scores, valid = choose(
            [[SQUARE, SQUARE, [30, 30, 40, 40]]], SCORES, 0.05, 0.5
        )
    count = int(valid.sum())
    assert list(zip(rows[:count].tolist(), labels[:count].tolist(), strict=True)) == [
        (0, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    np.testing.assert_allclose(scores[:4], [0.9, 0.7, 0.2, 0.1])
    assert not scores[4:].any()
    assert not rows[4:].any()


def test_scores_must_exceed_the_threshold(path):
    with path():
        _, _, scores, valid = choose([[SQUARE, SQUARE, [30, 30, 40, 40]]], SCORES, 0.2, 0.5)
        np.testing.assert_allclose(scores[valid > 0], [0.9, 0.7])
        _, labels, scores, valid = choose([[SQUARE] * 3], SCORES, 0.95, 0.5)
    assert not valid.any()
    assert not labels.any()
    assert not scores.any()


def crowd_of_boxes():
    random = np.random.default_rng(0)
    low = random.uniform(0, 100, (1, 60, 2))
    boxes = np.concatenate([low, low + random.uniform(5, 60, (1, 60, 2))], -1).astype("float32")
    return boxes, random.uniform(size=(1, 60, 3)).astype("float32")


def test_limiting_candidates_changes_nothing_while_enough_survive(path):
    boxes, scores = crowd_of_boxes()
    with path():
        all_pairs = choose(boxes, scores, 0.05, 0.3, 180, 10)
        few_pairs = choose(boxes, scores, 0.05, 0.3, 60, 10)
        one_less = choose(boxes, scores, 0.05, 0.3, 9, 10)
    assert all_pairs[3].sum() == 10
    for ours, other in zip(all_pairs, few_pairs, strict=True):
        np.testing.assert_array_equal(ours, other)
    assert one_less[3].sum() < 10


def test_class_wise_choice_equals_suppression_class_by_class(path):
    boxes, scores = crowd_of_boxes()
    with path():
        rows, labels, best, valid = choose(boxes, scores, 0.05, 0.4, 180, 180)
        for label in range(3):
            alone = kept(boxes[0], np.where(scores > 0.05, scores, -1)[0, :, label], 0.4)
            mine = (labels == label) & (valid > 0)
            np.testing.assert_array_equal(rows[mine], alone)
    assert (np.diff(best) <= 0).all()


def test_both_implementations_agree():
    boxes, scores = crowd_of_boxes()
    ours = choose(boxes, scores, 0.05, 0.5, 180, 100)
    with portable():
        other = choose(boxes, scores, 0.05, 0.5, 180, 100)
    for mine, theirs in zip(ours, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert ours[3].sum() > 30


CHAIN = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]  # neighbours .43, ends .11


def choose_fast(boxes, scores, score_threshold=0.05, nms_threshold=0.4, each=200, detections=6):
    """(row, label, score) that `select_fast` finds in one picture; checks that padding is 0."""
    boxes, scores = np.asarray([boxes], "float32"), np.asarray([scores], "float32")
    function = compiled(
        lambda b, s: select_fast(b, s, score_threshold, nms_threshold, each, detections)
    )
    rows, labels, best, valid = (numpy(x)[0] for x in function(boxes, scores))
    assert rows.shape == labels.shape == best.shape == valid.shape == (detections,)
    count = int(valid.sum())
    np.testing.assert_array_equal(valid, np.arange(detections) < count)
    assert not (rows[count:].any() or labels[count:].any() or best[count:].any())
    found = zip(
        rows.tolist(), labels.tolist(), best.astype("float64").round(4).tolist(), strict=True
    )
    return list(found)[:count]


def test_a_suppressed_box_suppresses_in_fast_suppression():
    scores = [[0.9], [0.8], [0.7]]
    assert choose_fast(CHAIN, scores) == [(0, 0, 0.9)]
    assert choose_fast(CHAIN, scores, nms_threshold=0.5) == [(0, 0, 0.9), (1, 0, 0.8), (2, 0, 0.7)]
    assert choose_fast(CHAIN, [[0.8], [0.7], [0.9]]) == [(2, 0, 0.9), (0, 0, 0.8)]


def test_fast_suppression_keeps_classes_apart_and_ranks_them_together():
    scores = [[0.9, 0.3, 0.01], [0.4, 0.6, 0.02], [0.8, 0.7, 0.03]]
    # Of class 0, box 1 comes after both others; of class 1, it drops box 0 though 2 drops it.
    assert choose_fast(CHAIN, scores) == [(0, 0, 0.9), (2, 0, 0.8), (2, 1, 0.7)]


def test_thresholds_of_fast_suppression():
    """Scores must exceed theirs; an IoU may equal its threshold."""
    half = [[0, 0, 10, 10], [0, 0, 10, 5]]
    assert choose_fast(half, [[0.9], [0.25]], 0.25, 0.5) == [(0, 0, 0.9)]
    assert choose_fast(half, [[0.9], [0.25]], 0.2, 0.5) == [(0, 0, 0.9), (1, 0, 0.25)]
    assert choose_fast(half, [[0.9], [0.25]], 0.2, 0.49) == [(0, 0, 0.9)]
    assert choose_fast(half, [[0.2], [0.1]], 0.2, 0.5) == []


def test_fast_suppression_takes_the_best_of_each_class_and_of_all():
    apart = [[20 * i, 0, 20 * i + 10, 10] for i in range(4)]
    scores = [[0.2, 0.9], [0.5, 0.3], [0.4, 0.6], [0.1, 0.8]]
    found = [(0, 1, 0.9), (3, 1, 0.8), (1, 0, 0.5), (2, 0, 0.4)]
    assert choose_fast(apart, scores, each=2) == found
    assert choose_fast(apart, scores, each=2, detections=3) == found[:3]
    assert choose_fast(apart, scores, each=9, detections=20)[1:4] == [
        (3, 1, 0.8),
        (2, 1, 0.6),
        (1, 0, 0.5),
    ]


def test_fast_suppression_of_two_pictures_and_of_padding():
    boxes = np.asarray([[*CHAIN, [0, 0, 0, 0]], [[0, 0, 0, 0], *CHAIN]], "float32")
    scores = np.zeros((2, 4, 2), "float32")
    scores[0, :3, 1], scores[1, 1:, 0] = [0.9, 0.8, 0.7], [0.7, 0.1, 0.8]
    rows, labels, best, valid = map(numpy, select_fast(boxes, scores, 0.05, 0.4, 200, 3))
    np.testing.assert_array_equal(valid, [[1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(rows, [[0, 0, 0], [3, 1, 0]])
    np.testing.assert_array_equal(labels, [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(best, [[0.9, 0, 0], [0.8, 0.7, 0]])
