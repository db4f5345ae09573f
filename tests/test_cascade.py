import numpy as np
import pytest
from builders import gradient, numpy, rois
from keras import layers, ops

from pac_keras.cascade import STAGE_LOSSES, BoxStage, box_stages, refine_boxes
from pac_keras.structures import Rois

SCALES = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
SIZES = np.asarray([[100, 100]], "int32")
BOXES = [[[10, 10, 30, 50], [0, 0, 20, 20], [60, 60, 100, 100]]]


class FixedHead(layers.Layer):
    """Answers the same logits and deltas for every region."""

    def __init__(self, logits, deltas):
        super().__init__()
        self.answer = np.asarray(logits, "float32"), np.asarray(deltas, "float32")

    def call(self, features):
        count = ops.shape(features)[0]
        return tuple(ops.tile(x[None], (count, 1)) for x in self.answer)


def stage(index, logits=(0, 0, 0), deltas=(0, 0, 0, 0)):
    return BoxStage(FixedHead(logits, deltas), 0.5, SCALES[index], 1.0)


def empty_pool(boxes, size):
    return np.zeros((boxes.shape[0] * boxes.shape[1], size, size, 1), "float32")


def test_settings_are_those_of_the_papers():
    stages = box_stages(80, fc_channels=16)
    assert [stage.iou_threshold for stage in stages] == [0.5, 0.6, 0.7]
    assert [stage.delta_scale for stage in stages] == list(SCALES)
    assert [stage.loss_weight for stage in stages] == [1, 0.5, 0.25]
    assert STAGE_LOSSES[3:6] == ("stage2_class", "stage2_box", "stage2_mask")
    logits, deltas = stages[2](np.zeros((1, 7, 7, 4), "float32"))
    assert (logits.shape, deltas.shape) == ((1, 81), (1, 4))
    assert len({id(stage.head) for stage in stages}) == 3


def refined(index, regions, deltas):
    deltas = np.tile(np.asarray(deltas, "float32"), (1, regions.boxes.shape[1], 1))
    return Rois(*(numpy(x)[0] for x in stage(index).refine(regions, deltas, SIZES)))


@pytest.mark.parametrize(("index", "shift"), [(0, 0.1), (1, 0.05), (2, 0.033)])
def test_refining_moves_boxes_by_the_stage_s_scale_and_clips_them(index, shift):
    found = refined(index, rois(BOXES), [1, 0, 0, 0])
    expected = np.asarray(BOXES[0]) + np.outer([20, 20, 40], [shift, 0, shift, 0])
    np.testing.assert_allclose(found.boxes, np.minimum(expected, 100), rtol=1e-5)
    np.testing.assert_array_equal(found.valid, [1, 1, 1])


def test_refining_scales_sizes():
    found = refined(0, rois(BOXES), [0, 0, 5 * np.log(0.5), 0])
    np.testing.assert_allclose(found.boxes[0], [15, 10, 25, 50], rtol=1e-5)


def test_objects_own_boxes_are_dropped():
    found = refined(0, rois(BOXES, [[1, 1, 0]], [[1, 0, 0]]), [0, 0, 0, 0])
    np.testing.assert_array_equal(found.valid, [0, 1, 0])
    np.testing.assert_array_equal(found.is_truth, [0, 0, 0])
    np.testing.assert_allclose(found.boxes, [[0] * 4, BOXES[0][1], [0] * 4])


def test_refined_boxes_have_no_gradient():
    def loss(deltas):
        return ops.sum(stage(0).refine(rois(BOXES), deltas, SIZES).boxes) + ops.sum(deltas)

    deltas = np.full((1, 3, 4), 0.3, "float32")
    np.testing.assert_array_equal(gradient(loss, deltas), np.ones((1, 3, 4)))


def test_prediction_keeps_pictures_and_regions_apart():
    regions = rois(np.arange(2 * 3 * 4).reshape(2, 3, 4))

    class Reader(layers.Layer):
        def call(self, features):
            first = features[:, 0, 0, :1]
            return first * np.ones((1, 5), "float32"), first + np.zeros((1, 4), "float32")

    def pool(boxes, size):
        assert size == 7
        value = np.arange(6, dtype="float32")[:, None, None, None]
        return np.broadcast_to(value, (6, 7, 7, 1))

    logits, deltas = BoxStage(Reader(), 0.5, SCALES[0], 1.0).predict(pool, regions)
    np.testing.assert_array_equal(numpy(logits)[..., 0], [[0, 1, 2], [3, 4, 5]])
    assert (logits.shape, deltas.shape) == ((2, 3, 5), (2, 3, 4))


def test_scores_come_from_the_mean_logits_and_boxes_from_the_last_stage():
    seen = []

    def pool(boxes, size):
        seen.append(numpy(boxes)[0])
        return empty_pool(boxes, size)

    logits = [(3, 0, 0), (0, 6, 0), (0, 0, 0)]
    stages = [stage(i, logits[i], (1, 0, 0, 0)) for i in range(3)]
    found, scores = refine_boxes(stages, pool, rois(BOXES, [[1, 1, 0]]), SIZES)
    expected = np.exp([1, 2, 0]) / np.exp([1, 2, 0]).sum()
    np.testing.assert_allclose(numpy(scores)[0, :2], [expected[:2]] * 2, rtol=1e-5)
    assert not numpy(scores)[0, 2].any()
    # widths stay, each stage moves by its share of them
    shifts = 20 * np.cumsum([0, 0.1, 0.05, 0.033])
    for shift, boxes in zip(shifts, [*seen, numpy(found.boxes)[0]], strict=True):
        np.testing.assert_allclose(boxes[0], np.add(BOXES[0][0], [shift, 0, shift, 0]), rtol=1e-5)
    np.testing.assert_array_equal(numpy(found.valid), [[1, 1, 0]])
