import keras
import numpy as np
import pytest
from builders import (
    compiled,
    count_weights,
    first,
    gradient,
    ground_truth,
    numpy,
    weight_gradients,
)
from keras import ops

from pac_keras.losses import absolute_error
from pac_keras.proposals.anchors import anchor_grid, base_anchors, inside_picture
from pac_keras.proposals.rpn import RPN, flatten_levels, propose, rpn_loss
from pac_keras.structures import CROWD, PADDING

SIZES = np.asarray([[64, 64]], "int32")


def flat_maps(height=64, width=64, levels=(2, 3), batch=1):
    """Maps of a picture with logits -5 and no deltas."""
    shapes = {level: (batch, -(-height // 2**level), -(-width // 2**level)) for level in levels}
    return {
        level: [np.full((*shape, 3), -5, "float32"), np.zeros((*shape, 12), "float32")]
        for level, shape in shapes.items()
    }


def random_maps(height, width, batch=2):
    random = np.random.default_rng(0)
    return {
        level: [random.normal(size=x.shape).astype("float32") for x in maps]
        for level, maps in flat_maps(height, width, range(2, 7), batch).items()
    }


def proposals(maps, sizes=SIZES, pre_nms=100, count=50):
    """`propose`, compiled: boxes, valid, is_truth and scores, NumPy."""
    levels = sorted(maps)
    flat = [x for level in levels for x in maps[level]]

    def run(*tensors):
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        rois, scores = propose(dict(zip(levels, pairs, strict=True)), sizes, pre_nms, count)
        return *rois, scores

    return [numpy(x) for x in compiled(run)(*flat)]


def test_number_of_weights_and_shapes():
    head = RPN()
    maps = head({level: np.zeros((2, 4, 6, 256), "float32") for level in (2, 6)})
    assert count_weights(head) == 593_935
    assert {k: [tuple(x.shape) for x in v] for k, v in maps.items()} == {
        level: [(2, 4, 6, 3), (2, 4, 6, 12)] for level in (2, 6)
    }


def test_levels_share_their_weights_and_all_get_gradients():
    head = RPN(channels=8)
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 8)).astype("float32")
    maps = head({2: x, 5: x})
    np.testing.assert_array_equal(numpy(maps[2][0]), numpy(maps[5][0]))
    gradients = weight_gradients(head, lambda m: sum(ops.sum(y * y) for y in m[2]), {2: x})
    assert len(gradients) == 6
    assert all(np.abs(g).max() > 0 for g in gradients.values())


def test_flattened_rows_belong_to_their_anchors():
    maps = flat_maps(levels=(3, 2))
    maps[3][0][0, 2, 5, 1] = 7
    maps[3][1][0, 2, 5, 4:8] = (1, 2, 3, 4)
    anchors, logits, deltas = flatten_levels(maps)
    assert [len(numpy(x)) for x in anchors] == [16 * 16 * 3, 8 * 8 * 3]  # finest level first
    row = int(numpy(logits[1])[0].argmax())
    np.testing.assert_array_equal(numpy(anchors[1])[row], [40 - 32, 16 - 32, 40 + 32, 16 + 32])
    np.testing.assert_array_equal(numpy(deltas[1])[0, row], [1, 2, 3, 4])


def test_best_anchors_become_proposals():
    maps = flat_maps()
    maps[2][0][0, 8, 8, 1] = 2  # [16, 16, 48, 48]
    maps[3][0][0, 0, 7, 1] = 3  # [24, -32, 88, 32] clipped to [24, 0, 64, 32]
    boxes, valid, is_truth, scores = proposals(maps, count=8)
    np.testing.assert_array_equal(boxes[0, :2], [[24, 0, 64, 32], [16, 16, 48, 48]])
    np.testing.assert_allclose(scores[0, :2], 1 / (1 + np.exp([-3, -2])), rtol=1e-5)
    assert valid.all()
    assert not is_truth.any()
    assert (np.diff(scores) <= 0).all()


def test_deltas_are_decoded():
    maps = flat_maps(levels=(2,))
    maps[2][0][0, 8, 8, 1] = 2
    maps[2][1][0, 8, 8, 4:8] = (0.25, -0.125, np.log(0.5), np.log(0.25))
    boxes = proposals(maps, count=4)[0]
    np.testing.assert_allclose(boxes[0, 0], [40 - 8, 28 - 4, 40 + 8, 28 + 4], rtol=1e-5)


def test_suppression_is_level_by_level():
    maps = flat_maps()
    for level, shrink in ((2, 0.0), (3, np.log(0.5))):
        y = x = 32 // 2**level
        maps[level][0][0, y, x, 1] = 5
        maps[level][1][0, y, x, 4:8] = (0, 0, shrink, shrink)
    maps[2][0][0, 8, 7, 1] = 4.5  # the same box from a neighbour of the same level
    maps[2][1][0, 8, 7, 4:6] = (4 / 32, 0)
    boxes, _, _, scores = proposals(maps, count=6)
    np.testing.assert_allclose(boxes[0, :2], [[16, 16, 48, 48]] * 2, rtol=1e-5)
    assert scores[0, 2] < 0.1  # the third copy is gone


def test_only_the_best_of_each_level_are_looked_at():
    maps = flat_maps()
    maps[2][0][0, 8, 8, :] = (3, 4, 2)
    boxes, valid, _, _ = proposals(maps, pre_nms=1, count=6)
    assert valid.sum() == 2  # one of each level
    np.testing.assert_array_equal(boxes[0, 0], [16, 16, 48, 48])


def test_proposals_lie_in_their_pictures_and_have_an_area():
    sizes = np.asarray([[70, 90], [128, 33]], "int32")
    boxes, valid, _, scores = proposals(random_maps(128, 96), sizes, 200, 300)
    for i, (height, width) in enumerate(sizes):
        found = boxes[i][valid[i] > 0]
        assert len(found) > 30
        assert found.min() >= 0
        assert found[:, 2].max() <= width
        assert found[:, 3].max() <= height
        assert ((found[:, 2:] - found[:, :2]) > 0).all()
    assert (np.diff(scores, axis=1) <= 0).all()


def test_missing_proposals_are_padding_at_the_end():
    boxes, valid, _, scores = proposals(flat_maps(levels=(3,)), count=400, pre_nms=400)
    count = int(valid.sum())
    assert 0 < count < 8 * 8 * 3
    assert boxes.shape == (1, 400, 4)
    np.testing.assert_array_equal(valid[0], np.arange(400) < count)
    assert not boxes[0, count:].any()
    assert not scores[0, count:].any()


def test_pictures_do_not_depend_on_their_batch():
    maps = random_maps(64, 64)
    sizes = np.asarray([[64, 64], [40, 50]], "int32")
    together = proposals(maps, sizes)
    alone = proposals({k: [x[1:] for x in v] for k, v in maps.items()}, sizes[1:])
    for ours, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours[1:], other)


def test_proposals_have_no_gradient():
    maps = flat_maps(levels=(2,))

    def loss(deltas):
        rois, scores = propose({2: (maps[2][0], deltas)}, SIZES, 20, 10)
        return ops.sum(rois.boxes) + ops.sum(scores) + ops.sum(deltas)

    found = gradient(loss, maps[2][1])
    np.testing.assert_array_equal(found, np.ones_like(found))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX has static shapes")
def test_pictures_of_unknown_size_give_the_same_proposals():
    import tensorflow as tf

    maps = random_maps(64, 96)
    sizes = np.asarray([[64, 96], [40, 50]], "int32")
    known = proposals(maps, sizes, 500, 100)
    flat = [x for level in sorted(maps) for x in maps[level]]
    spec = [tf.TensorSpec([None, None, None, x.shape[-1]]) for x in flat]

    @tf.function(input_signature=spec)
    def run(*tensors):
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        rois, scores = propose(dict(zip(sorted(maps), pairs, strict=True)), sizes, 500, 100)
        return *rois, scores

    for ours, other in zip(known, run(*flat), strict=True):
        np.testing.assert_allclose(ours, numpy(other), atol=1e-5)


def losses(maps, truth, num_samples=256, sizes=SIZES):
    found = rpn_loss(maps, sizes, truth, absolute_error, num_samples, first)
    return {name: tuple(float(x) for x in pair) for name, pair in found.items()}


OBJECT = [16, 16, 48, 48]  # exactly the square anchor of cell (8, 8) at stride 4


def test_loss_by_hand():
    maps = flat_maps(levels=(2,))
    maps[2][0][:] = 0
    # Positive are the anchor and its neighbours above, below, left and right: IoU 28 / 36.
    found = losses(maps, ground_truth([[OBJECT]], [[3]]), num_samples=10)
    assert found["objectness"] == pytest.approx((10 * np.log(2), 10), rel=1e-5)
    assert found["box"] == pytest.approx((4 * 4 / 32, 10), rel=1e-5)
    # At most half are positive: the first three in order are above, left, itself.
    found = losses(maps, ground_truth([[OBJECT]], [[3]]), num_samples=6)
    assert found["box"] == pytest.approx((2 * 4 / 32, 6), rel=1e-5)


def test_objectness_by_hand():
    maps = flat_maps(levels=(2,))
    maps[2][0][0, 8, 8, 1] = 5
    found = losses(maps, ground_truth([[OBJECT]], [[3]]), num_samples=10)
    hit, missed = np.log1p(np.exp(-5)), np.log1p(np.exp(5))
    assert found["objectness"][0] == pytest.approx(6 * hit + 4 * missed, rel=1e-5)


def test_counts_are_sampled_anchors():
    maps = flat_maps(levels=(2,))
    inside = int(numpy(inside_picture(anchor_grid(16, 16, 4, base_anchors(4)), SIZES, 0)).sum())
    empty = ground_truth(np.zeros((1, 2, 4)), [[PADDING, PADDING]])
    assert 100 < inside < 256
    found = losses(maps, empty)
    assert found["objectness"] == pytest.approx((inside * np.log1p(np.exp(-5)), inside), rel=1e-4)
    assert found["box"] == (0, inside)
    assert losses(maps, empty, num_samples=100)["objectness"][1] == 100


def test_padding_objects_change_nothing():
    maps = {k: [x[:1] for x in v] for k, v in random_maps(64, 64).items()}
    plain = losses(maps, ground_truth([[OBJECT]], [[3]]), num_samples=64)
    padded = losses(maps, ground_truth([[OBJECT]], [[3]], extra=5), num_samples=64)
    for name in ("objectness", "box"):
        assert plain[name] == pytest.approx(padded[name], rel=1e-6)
    assert plain["box"][0] > 0


def test_crowds_are_neither_object_nor_background():
    maps = flat_maps(levels=(2,))
    everywhere = losses(maps, ground_truth([[[0, 0, 64, 64]]], [[CROWD]]))
    assert everywhere == {"objectness": (0, 0), "box": (0, 0)}
    corner = losses(maps, ground_truth([[[0, 0, 40, 40]]], [[CROWD]]))
    nothing = losses(maps, ground_truth([[[0, 0, 0, 0]]], [[PADDING]]))
    assert 0 < corner["objectness"][1] < nothing["objectness"][1]


def test_anchors_in_the_padding_are_not_used():
    maps = flat_maps(levels=(2,))
    truth = ground_truth([[[0, 0, 20, 20]]], [[1]])
    small = losses(maps, truth, sizes=np.asarray([[20, 20]]))
    assert small == {"objectness": (0, 0), "box": (0, 0)}  # no anchor fits
    wide = np.asarray([[40, 64]], "int32")
    inside = numpy(inside_picture(anchor_grid(16, 16, 4, base_anchors(4)), wide, 0))[0]

    def loss(logits):
        empty = ground_truth(np.zeros((1, 1, 4)), [[PADDING]])
        found = rpn_loss({2: (logits, maps[2][1])}, wide, empty, absolute_error, 256, first)
        return found["objectness"][0]

    used = np.abs(gradient(loss, maps[2][0])).ravel() > 0
    np.testing.assert_array_equal(used, inside > 0)
