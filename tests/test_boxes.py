import numpy as np
import pytest
from builders import numpy

from pac_keras import boxes as B

STAGES = {
    "rpn": (1.0, 1.0, 1.0, 1.0),
    "s0": (0.1, 0.1, 0.2, 0.2),
    "s1": (0.05, 0.05, 0.1, 0.1),
    "s2": (0.033, 0.033, 0.067, 0.067),
}
ANCHOR = np.asarray([10, 20, 110, 220], "float32")


def test_area_of_boxes_and_of_inverted_ones():
    boxes = np.asarray([[0, 0, 4, 3], [2, 2, 2, 9], [5, 0, 4, 9], [5, 5, 4, 4]], "float32")
    np.testing.assert_array_equal(numpy(B.box_area(boxes)), [12, 0, 0, 0])


def test_iou_and_coverage_by_hand():
    first = np.asarray([[0, 0, 10, 10], [0, 0, 10, 5]], "float32")
    second = np.asarray(
        [[5, 0, 15, 10], [0, 0, 10, 10], [10, 0, 20, 10], [2, 1, 4, 3], [3, 3, 3, 3]], "float32"
    )
    iou = [[50 / 150, 1, 0, 4 / 100, 0], [25 / 125, 0.5, 0, 4 / 50, 0]]
    np.testing.assert_allclose(numpy(B.box_iou(first, second)), iou, rtol=1e-6)
    coverage = [[0.5, 1, 0, 0.04, 0], [0.5, 1, 0, 0.08, 0]]
    np.testing.assert_allclose(numpy(B.box_coverage(first, second)), coverage, rtol=1e-6)
    shared = [[50, 100, 0, 4, 0], [25, 50, 0, 4, 0]]
    np.testing.assert_array_equal(numpy(B.box_intersection(first, second)), shared)


def test_empty_boxes_overlap_nothing_not_even_themselves():
    empty = np.asarray([[0, 0, 0, 0], [4, 4, 4, 4], [6, 1, 6, 9]], "float32")
    full = np.asarray([[0, 0, 10, 10]], "float32")
    assert not numpy(B.box_iou(empty, empty)).any()
    assert not numpy(B.box_iou(empty, full)).any()
    assert not numpy(B.box_coverage(empty, full)).any()


def test_iou_works_picture_by_picture():
    random = np.random.default_rng(0)
    low = random.uniform(0, 50, (2, 7, 2))
    boxes = np.concatenate([low, low + random.uniform(1, 40, (2, 7, 2))], -1).astype("float32")
    together = numpy(B.box_iou(boxes[:, :3], boxes[:, 3:]))
    assert together.shape == (2, 3, 4)
    for i in range(2):
        alone = numpy(B.box_iou(boxes[i, :3], boxes[i, 3:]))
        np.testing.assert_allclose(together[i], alone, rtol=1e-6)


def test_encode_by_hand():
    box = np.asarray([20, 10, 100, 250], "float32")
    deltas = numpy(B.encode_deltas(box, ANCHOR, STAGES["s0"]))
    np.testing.assert_allclose(deltas, [0, 0.5, -1.115718, 0.911608], atol=2e-6)


def test_decode_clamps_the_size_and_leaves_clipping_to_clip():
    deltas = np.asarray([0.5, -0.3, 0.2, 30], "float32")
    box = numpy(B.decode_deltas(deltas, ANCHOR, STAGES["s0"]))
    # height: exp(min(30 * .2, log(1000 / 16))) = 62.5 times 200, around 120 - .03 * 200 = 114
    expected = [12.95946, 114 - 6250, 117.04054, 114 + 6250]
    np.testing.assert_allclose(box, expected, rtol=1e-5)
    clipped = numpy(B.clip_boxes(box[None, None], np.asarray([[480, 640]])))
    np.testing.assert_allclose(clipped[0, 0], [12.95946, 0, 117.04054, 480], rtol=1e-5)


def test_decoding_clamps_shrinking_too():
    box = numpy(B.decode_deltas(np.asarray([0, 0, -9, -9], "float32"), ANCHOR))
    np.testing.assert_allclose(box, [59.2, 118.4, 60.8, 121.6], rtol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_decode_is_the_inverse_of_encode(stage):
    random = np.random.default_rng(1)
    low = random.uniform(0, 200, (2, 50, 2))
    boxes = np.concatenate([low, low + random.uniform(10, 100, (2, 50, 2))], -1).astype("float32")
    deltas = B.encode_deltas(boxes[0], boxes[1], STAGES[stage])
    back = numpy(B.decode_deltas(deltas, boxes[1], STAGES[stage]))
    np.testing.assert_allclose(back, boxes[0], atol=2e-3)


def test_padding_rows_stay_empty_and_finite():
    zeros = np.zeros((3, 4), "float32")
    deltas = np.asarray([[0, 0, 0, 0], [3, -3, 9, 9], [-1, 1, -9, 0]], "float32")
    assert not numpy(B.decode_deltas(deltas, zeros)).any()
    assert np.isfinite(numpy(B.encode_deltas(zeros, zeros, STAGES["s2"]))).all()
    boxes = np.asarray([[5, 5, 9, 9]], "float32")
    assert np.isfinite(numpy(B.encode_deltas(boxes, zeros[:1]))).all()


def test_half_precision_deltas_give_float32_boxes():
    anchor = np.asarray([1000.25, 1000.25, 1200.25, 1300.5], "float32")  # not float16 numbers
    box = numpy(B.decode_deltas(np.zeros(4, "float16"), anchor))
    assert box.dtype == np.float32
    np.testing.assert_array_equal(box, anchor)


def test_each_picture_clips_its_own_boxes():
    boxes = np.asarray([[[-5, -5, 500, 500], [30, 40, 30.5, 41]]] * 2, "float32")
    clipped = numpy(B.clip_boxes(boxes, np.asarray([[20, 50], [100, 10]], "int32")))
    expected = [
        [[0, 0, 50, 20], [30, 20, 30.5, 20]],  # (height, width) = 20, 50
        [[0, 0, 10, 100], [10, 40, 10, 41]],
    ]
    np.testing.assert_array_equal(clipped, expected)


def test_xywh_by_hand_and_back():
    boxes = np.asarray([[3.5, 4, 13.5, 24], [0, 0, 0, 0]])
    np.testing.assert_array_equal(B.to_xywh(boxes), [[3.5, 4, 10, 20], [0, 0, 0, 0]])
    np.testing.assert_array_equal(B.from_xywh(B.to_xywh(boxes)), boxes)
