import numpy as np
import pytest
from builders import count_weights, gradient, ground_truth, matches, numpy, rois, weight_gradients
from keras import ops

from pac_keras.heads.mask import MaskOutput
from pac_keras.heads.quality import (
    MaskQualityHead,
    quality_loss,
    quality_target,
    rescored,
)
from pac_keras.structures import PADDING, Detections


def test_number_of_weights_and_shape():
    head = MaskQualityHead(80)
    out = head(np.zeros((2, 14, 14, 256), "float32"), np.zeros((2, 28, 28), "float32"))
    assert count_weights(head) == 16_340_304
    assert out.shape == (2, 80)


def test_fewer_convolutions_and_hidden_features():
    inputs = [np.ones((2, 14, 14, 4), "float32"), np.zeros((2, 28, 28), "float32")]
    short = MaskQualityHead(3, channels=4, fc_channels=8, num_convs=2)
    assert short(*inputs).shape == (2, 3)
    assert len(short.convs) == 1
    flow = MaskQualityHead(3, channels=4, fc_channels=8, takes_hidden=True)
    hidden = np.random.default_rng(0).normal(size=(2, 14, 14, 4)).astype("float32")
    out = numpy(flow(*inputs, hidden))
    assert count_weights(flow) - count_weights(MaskQualityHeadBuilt(4)) == 4 * 4 + 4
    kernel, bias = (numpy(x) for x in flow.relay.weights)
    relayed = np.maximum(hidden @ kernel[0, 0] + bias, 0)
    flow.relay = None
    np.testing.assert_allclose(numpy(flow(inputs[0] + relayed, inputs[1])), out, atol=1e-5)


def MaskQualityHeadBuilt(channels):
    head = MaskQualityHead(3, channels=channels, fc_channels=8)
    head(np.zeros((1, 14, 14, channels), "float32"), np.zeros((1, 28, 28), "float32"))
    return head


def test_mask_enters_as_a_probability_max_pooled():
    """A head whose convolution and dense layers copy shows what it sees of the mask."""
    head = MaskQualityHead(49, channels=1, fc_channels=49, num_convs=1)
    features = np.full((1, 14, 14, 1), 7, "float32")
    logits = np.random.default_rng(0).normal(size=(1, 28, 28)).astype("float32")
    head(features, logits)
    kernel = np.zeros((3, 3, 2, 1))
    kernel[1, 1, 1] = 1  # centre, mask channel
    head.last_conv.set_weights([kernel, np.zeros(1)])
    for dense in (*head.dense, head.quality):
        dense.set_weights([np.eye(49), np.zeros(49)])
    pooled = 1 / (1 + np.exp(-logits.reshape(14, 2, 14, 2).max(axis=(1, 3))))
    # Stride 2 with one pixel of padding on both sides: centres at 0, 2, .., 12.
    np.testing.assert_allclose(
        numpy(head(features, logits)).reshape(7, 7), pooled[::2, ::2], rtol=1e-5
    )


def test_gradient_reaches_the_weights_and_the_mask():
    head = MaskQualityHeadBuilt(4)
    random = np.random.default_rng(1)
    features = random.normal(size=(2, 14, 14, 4)).astype("float32")
    logits = random.normal(size=(2, 28, 28)).astype("float32")
    for dense in head.dense:
        dense.bias.assign(np.ones(8))
    gradients = weight_gradients(head, lambda q: ops.sum(q * q), features, logits)
    assert len(gradients) == 14
    assert all(np.abs(x).max() > 0 for x in gradients.values())
    assert np.abs(gradient(lambda x: ops.sum(head(features, x)), logits)).max() > 0


ONES = np.ones((1, 1, 28, 28), "float32")


def target_of(region, predicted, targets=ONES, positive=1.0):
    """Quality target of one region of an object that fills 0..40 x 0..40."""
    truth = ground_truth([[[0, 0, 40, 40]]], [[0]], np.ones((1, 1, 8, 8), "uint8"))
    found = matches([[0]], [[0]], [[positive]])
    logits = np.where(predicted > 0, 3.0, -3.0).reshape(-1, 28, 28, 1).astype("float32")
    return float(numpy(quality_target(logits, targets, rois([[region]]), found, truth))[0, 0])


def test_target_by_hand():
    upper = np.zeros_like(ONES)
    upper[:, :, :14] = 1
    assert target_of([0, 0, 40, 40], ONES) == pytest.approx(1, rel=1e-5)
    assert target_of([0, 0, 40, 40], upper) == pytest.approx(0.5, rel=1e-5)
    assert target_of([0, 0, 40, 40], 0 * ONES) == 0


def test_what_lies_outside_the_region_counts_as_missed():
    upper = np.zeros_like(ONES)
    upper[:, :, :14] = 1
    half = [0, 0, 20, 40]
    assert target_of(half, ONES) == pytest.approx(0.5, rel=1e-5)
    assert target_of(half, upper) == pytest.approx(0.25, rel=1e-5)
    assert target_of([0, 0, 10, 10], ONES) == pytest.approx(1 / 16, rel=1e-5)


def test_what_is_predicted_beside_the_object_counts_in_the_union():
    left = np.zeros_like(ONES)
    left[..., :14] = 1  # region 0..80: the object is its left half
    assert target_of([0, 0, 80, 40], ONES, left) == pytest.approx(0.5, rel=1e-5)
    assert target_of([0, 0, 80, 40], 1 - left, left) == 0


def test_regions_without_object_have_target_zero():
    assert target_of([0, 0, 40, 40], ONES, positive=0.0) == 0
    assert target_of([50, 50, 60, 60], 0 * ONES, 0 * ONES) == 0


def test_a_probability_of_one_half_is_inside_and_targets_have_no_gradient():
    truth = ground_truth([[[0, 0, 40, 40]]], [[0]], np.ones((1, 1, 8, 8), "uint8"))
    found, sample = matches([[0]], [[0]], [[1]]), rois([[[0, 0, 40, 40]]])
    logits = np.zeros((1, 28, 28, 1), "float32")
    value = float(numpy(quality_target(logits, ONES, sample, found, truth))[0, 0])
    assert value == pytest.approx(1, rel=1e-5)

    def loss(x):
        return ops.sum(quality_target(x, ONES, sample, found, truth)) + 2 * ops.sum(x)

    np.testing.assert_array_equal(gradient(loss, logits), np.full_like(logits, 2))


def test_target_looks_at_the_matched_class():
    truth = ground_truth([[[0, 0, 40, 40]]], [[2]], np.ones((1, 1, 8, 8), "uint8"))
    logits = np.full((2, 28, 28, 3), -3, "float32")
    logits[0, ..., 2] = logits[1, ..., 1] = 3
    sample, found = rois([[[0, 0, 40, 40]] * 2]), matches([[0, 0]], [[2, 2]], [[1, 1]])
    targets = np.ones((1, 2, 28, 28), "float32")
    value = numpy(quality_target(logits, targets, sample, found, truth))
    np.testing.assert_allclose(value, [[1, 0]], rtol=1e-5)


def test_only_positive_targets_count():
    quality = np.asarray([[0.5, 0.25, 9, -9]], "float32")
    target = np.asarray([[0.75, 0.5, 0, 0]], "float32")
    assert tuple(map(float, quality_loss(quality, target))) == (0.125, 2)
    assert tuple(map(float, quality_loss(quality, 0 * target))) == (0, 0)
    np.testing.assert_allclose(
        gradient(lambda x: quality_loss(x, target)[0], quality), [[-0.5, -0.5, 0, 0]]
    )


def test_quality_of_each_region_s_class_from_the_last_mask():
    head = MaskQualityHead(3, channels=4, fc_channels=32)
    random = np.random.default_rng(0)
    features = random.normal(size=(4, 14, 14, 4)).astype("float32")
    logits = 3 * random.normal(size=(3, 4, 28, 28, 3)).astype("float32")
    outputs = [MaskOutput(features, x) for x in logits]
    labels = np.asarray([[0, 2], [1, PADDING]], "int32")
    found = numpy(head.of(features, outputs, labels))
    of_class = logits[2][np.arange(4), :, :, [0, 2, 1, 0]]
    table = numpy(head(features, of_class))
    assert np.abs(table).min() > 0
    expected = table[np.arange(4), [0, 2, 1, 0]].reshape(2, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def detections():
    scores = np.asarray([[0.9, 0.8, 0.5, 0]], "float32")
    return Detections(
        boxes=np.arange(16, dtype="float32").reshape(1, 4, 4),
        labels=np.asarray([[4, 5, 6, PADDING]], "int32"),
        scores=scores,
        box_scores=scores,
        masks=np.arange(4, dtype="float32")[None, :, None, None] * np.ones((2, 2), "float32"),
        mask_frames=np.arange(16, dtype="float32").reshape(1, 4, 4) + 100,
    )


QUALITY = np.asarray([[0.5, 1.2, -1, 9]], "float32")  # beyond [0, 1] it is clipped


def test_unknown_rescoring_is_an_error():
    with pytest.raises(ValueError, match="rescore='masks'"):
        rescored(detections(), QUALITY, "masks")


@pytest.mark.parametrize(
    ("rescore", "box_scores"), [("both", [0.8, 0.45, 0, 0]), ("segm", [0.8, 0.9, 0.5, 0])]
)
def test_rescoring_reorders_all_fields_together(rescore, box_scores):
    found = Detections(*(numpy(x) for x in rescored(detections(), QUALITY, rescore)))
    np.testing.assert_allclose(found.scores, [[0.8, 0.45, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.box_scores, [box_scores], rtol=1e-6)
    np.testing.assert_array_equal(found.labels, [[5, 4, 6, PADDING]])
    np.testing.assert_array_equal(found.masks[0, :, 0, 0], [1, 0, 2, 3])
    np.testing.assert_array_equal(found.boxes[0], detections().boxes[0, [1, 0, 2, 3]])
    np.testing.assert_array_equal(found.mask_frames[0], found.boxes[0] + 100)
