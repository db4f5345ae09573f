import numpy as np
import pytest
from builders import count_weights, gradient, ground_truth, matches, numpy, rois, weight_gradients
from keras import ops

from pac_keras.boxes import encode_deltas
from pac_keras.heads.box import BoxHead, box_loss
from pac_keras.losses import absolute_error
from pac_keras.structures import PADDING

SCALE = (0.1, 0.1, 0.2, 0.2)
TRUTH = ground_truth([[[0, 0, 10, 10], [20, 20, 40, 60]]], [[0, 1]])
SAMPLE = rois([[[0, 0, 10, 10], [20, 24, 40, 64], [50, 50, 60, 60]]])
MATCHES = matches([[0, 1, 0]], [[0, 1, 2]], [[1, 1, 0]])  # K = 2: label 2 is background


def test_number_of_weights_and_shapes():
    head = BoxHead(80)
    classes, deltas = head(np.zeros((3, 7, 7, 256), "float32"))
    assert count_weights(head) == 13_982_805
    assert (classes.shape, deltas.shape) == ((3, 81), (3, 4))


def test_every_weight_gets_a_gradient():
    head = BoxHead(3, fc_channels=16)
    features = np.random.default_rng(0).normal(size=(5, 7, 7, 4)).astype("float32")
    head(features)
    total = lambda outputs: sum(ops.sum(x * x) for x in outputs)  # noqa: E731
    gradients = weight_gradients(head, total, features)
    assert len(gradients) == 8
    assert all(np.abs(x).max() > 0 for x in gradients.values())


def test_loss_by_hand():
    logits = np.log([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]]).astype("float32")
    deltas = np.zeros((1, 3, 4), "float32")
    losses = box_loss(logits, deltas, SAMPLE, MATCHES, TRUTH, SCALE)
    total, count = losses["class"]
    assert float(count) == 3
    assert float(total) == pytest.approx(-np.log(0.5 * 0.8 * 0.6), rel=1e-5)
    # Only region 1 is off: dy = -4 pixels of 40, divided by .1 = -1, smooth L1 of 1 is .5.
    total, count = losses["box"]
    assert float(count) == 3
    assert float(total) == pytest.approx(0.5, rel=1e-5)
    absolute = box_loss(logits, deltas, SAMPLE, MATCHES, TRUTH, SCALE, absolute_error)
    assert float(absolute["box"][0]) == pytest.approx(1, rel=1e-5)


def test_right_deltas_cost_nothing():
    boxes = np.asarray([[TRUTH.boxes[0, 0], TRUTH.boxes[0, 1], [0, 0, 0, 0]]], "float32")
    deltas = numpy(encode_deltas(boxes, SAMPLE.boxes, SCALE))
    loss = box_loss(np.zeros((1, 3, 3), "float32"), deltas, SAMPLE, MATCHES, TRUTH, SCALE)
    assert float(loss["box"][0]) == pytest.approx(0, abs=1e-9)
    assert float(loss["class"][0]) == pytest.approx(3 * np.log(3), rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient():
    random = np.random.default_rng(0)
    logits = random.normal(size=(1, 5, 3)).astype("float32")
    deltas = random.normal(size=(1, 5, 4)).astype("float32")
    padded_rois = rois(np.pad(SAMPLE.boxes, ((0, 0), (0, 2), (0, 0))), [[1, 1, 1, 0, 0]])
    padded = matches([[0, 1, 0, 0, 0]], [[0, 1, 2, PADDING, PADDING]], [[1, 1, 0, 0, 0]])
    more = ground_truth(TRUTH.boxes, TRUTH.labels, extra=2)
    ours = box_loss(logits, deltas, padded_rois, padded, more, SCALE)
    plain = box_loss(logits[:, :3], deltas[:, :3], SAMPLE, MATCHES, TRUTH, SCALE)
    for name in ("class", "box"):
        np.testing.assert_allclose(numpy(ours[name][0]), numpy(plain[name][0]), rtol=1e-6)
        assert float(ours[name][1]) == float(plain[name][1]) == 3

    def of_deltas(x):
        return box_loss(logits, x, padded_rois, padded, more, SCALE)["box"][0]

    found = gradient(of_deltas, deltas)[0]
    assert np.abs(found[:2]).min() > 0
    assert not found[2:].any()


def test_without_regions_the_loss_is_zero():
    nothing = matches([[0] * 3], [[PADDING] * 3], [[0] * 3])
    empty = rois(np.zeros((1, 3, 4)), [[0, 0, 0]])
    logits, deltas = np.ones((1, 3, 3), "float32"), np.ones((1, 3, 4), "float32")
    losses = box_loss(logits, deltas, empty, nothing, TRUTH, SCALE)
    assert {name: tuple(map(float, loss)) for name, loss in losses.items()} == {
        "class": (0, 0),
        "box": (0, 0),
    }
