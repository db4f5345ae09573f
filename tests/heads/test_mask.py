import numpy as np
import pytest
from builders import count_weights, gradient, ground_truth, matches, numpy, rois, weight_gradients
from keras import ops

from pac_keras.heads.mask import (
    ClassLogits,
    MaskHead,
    MaskOutput,
    mask_cascade,
    mask_heads,
    mask_loss,
    mask_targets,
    object_frames,
    of_class,
    stage_masks,
)
from pac_keras.structures import PADDING

FEATURES = np.random.default_rng(0).normal(size=(2, 14, 14, 4)).astype("float32")


def small_heads(count=3):
    heads = mask_heads(count, 3, channels=4)
    mask_cascade(heads, FEATURES)
    return heads


@pytest.mark.parametrize(("takes_carried", "count"), [(False, 2_643_280), (True, 2_709_072)])
def test_number_of_weights_and_shapes(takes_carried, count):
    head = MaskHead(80, takes_carried=takes_carried)
    features = np.zeros((1, 14, 14, 256), "float32")
    hidden, logits = head(features, features if takes_carried else None)
    assert count_weights(head) == count
    assert (hidden.shape, logits.shape) == ((1, 14, 14, 256), (1, 28, 28, 80))


def test_each_head_builds_on_the_one_before():
    first, second, _ = heads = small_heads()
    outputs = mask_cascade(heads, FEATURES)
    assert len(outputs) == 3
    hidden = numpy(first(FEATURES)[0])
    np.testing.assert_allclose(numpy(outputs[0].hidden), hidden, atol=1e-6)
    carried = numpy(second(FEATURES, hidden)[1])
    np.testing.assert_allclose(numpy(outputs[1].logits), carried, atol=1e-6)
    # Its relay is a 1x1 convolution with ReLU, added to the features.
    kernel, bias = (numpy(x) for x in second.relay.weights)
    relayed = np.maximum(hidden @ kernel[0, 0] + bias, 0)
    alone = numpy(second(FEATURES + relayed)[0])
    np.testing.assert_allclose(numpy(outputs[1].hidden), alone, atol=1e-5)


def test_without_information_flow_each_head_sees_the_features_alone():
    heads = small_heads()
    outputs = mask_cascade(heads, FEATURES, information_flow=False)
    assert all(head.relay is None for head in mask_heads(3, 3, information_flow=False))
    flowing = mask_cascade(heads, FEATURES)
    for head, output in zip(heads, outputs, strict=True):
        np.testing.assert_allclose(numpy(output.logits), numpy(head(FEATURES)[1]), atol=1e-6)
    assert np.abs(numpy(outputs[2].hidden) - numpy(flowing[2].hidden)).max() > 1e-3


def test_gradients_flow_through_all_heads_before():
    first, second = small_heads(2)

    def last_hidden(hidden_and_logits):
        return ops.sum(second(FEATURES, hidden_and_logits[0])[0])

    gradients = weight_gradients(first, last_hidden, FEATURES)
    reached = {path: g is not None and np.abs(g).max() > 0 for path, g in gradients.items()}
    assert sum(reached.values()) == 8  # the four convolutions, not the outputs


def outputs_of(*probabilities):
    """MaskOutputs of 2 regions and 3 classes with constant probabilities per class."""
    logits = [np.log(np.asarray(p) / (1 - np.asarray(p))) for p in probabilities]
    return [MaskOutput(None, np.tile(x.astype("float32"), (2, 28, 28, 1))) for x in logits]


def test_masks_are_the_mean_probability_of_the_detected_class():
    outputs = outputs_of([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.9, 0.8, 0.9])
    labels = np.asarray([[1, PADDING]], "int32")
    masks = numpy(stage_masks(outputs, labels))
    assert masks.shape == (1, 2, 28, 28)
    np.testing.assert_allclose(masks[0, 0], 0.5, rtol=1e-5)
    assert not masks[0, 1].any()
    two = np.asarray([[0], [2]], "int32")  # two pictures with one detection each
    masks = numpy(stage_masks(outputs, two, stage=3))
    np.testing.assert_allclose(masks[:, 0, 0, 0], [0.9, 0.9], rtol=1e-5)
    masks = numpy(stage_masks(outputs, two, stage=1))
    np.testing.assert_allclose(masks[:, 0, 0, 0], [0.1, 0.3], rtol=1e-5)


def test_there_is_no_fourth_stage():
    outputs = outputs_of([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.9, 0.8, 0.9])
    for stage in (0, 4, "mean"):
        with pytest.raises(ValueError, match=f"test_mask_stage={stage!r}"):
            stage_masks(outputs, np.zeros((1, 2), "int32"), stage)


def test_the_map_of_each_class():
    maps = np.arange(12, dtype="float32").reshape(4, 1, 1, 3)
    picked = numpy(of_class(maps, np.asarray([[2, 0], [PADDING, 9]])))
    np.testing.assert_array_equal(picked.ravel(), [2, 3, 6, 11])


def test_targets_are_of_the_matched_object():
    left, right = np.zeros((2, 8, 8), "uint8")
    left[:, :4], right[:, 4:] = 1, 1
    frames = [[[0, 0, 40, 40], [0, 0, 40, 40]]]
    truth = ground_truth([[[0, 0, 20, 40], [20, 0, 40, 40]]], [[0, 1]], [[left, right]], frames)
    found = matches([[1, 0, 0]], [[1, 0, 3]], [[1, 1, 0]])
    sample = rois([[[0, 0, 40, 40], [0, 0, 40, 40], [20, 0, 40, 40]]])
    targets = numpy(mask_targets(sample, found, truth, np.asarray([[40, 40]]), grid=2))[0]
    expected = [[[0, 1], [0, 1]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]]
    np.testing.assert_array_equal(targets, expected)
    picked, boxes = object_frames(found, truth)
    np.testing.assert_array_equal(numpy(picked)[0], [right, left, left])
    assert boxes.shape == (1, 3, 4)


def test_rows_that_are_not_positive_change_neither_loss_nor_gradient():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 28, 28, 3)).astype("float32")
    targets = random.integers(0, 2, (1, 4, 28, 28)).astype("float32")
    found = matches([[0] * 4], [[2, 0, 3, PADDING]], [[1, 1, 0, 0]])  # background is 3
    total, count = mask_loss(logits, targets, found)
    alone = mask_loss(logits[:2], targets[:, :2], matches([[0] * 2], [[2, 0]], [[1, 1]]))
    np.testing.assert_allclose(numpy(total), numpy(alone[0]), rtol=1e-6)
    assert float(count) == float(alone[1]) == 2 * 28 * 28
    found_gradient = gradient(lambda x: mask_loss(x, targets, found)[0], logits)
    reached = np.abs(found_gradient).max(axis=(1, 2)) > 0
    np.testing.assert_array_equal(reached, [[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_without_positives_the_loss_is_zero():
    found = matches([[0, 0]], [[3, PADDING]], [[0, 0]])
    logits, targets = np.ones((2, 28, 28, 3), "float32"), np.zeros((1, 2, 28, 28), "float32")
    assert tuple(map(float, mask_loss(logits, targets, found))) == (0, 0)


def test_class_logits_are_those_of_a_convolution():
    layer, labels = ClassLogits(3), np.int32([[1, 0, 2]])
    features = np.random.default_rng(7).normal(size=(3, 5, 5, 4)).astype("float32")
    found = numpy(layer(features, labels))
    layer.bias.assign([1.0, 2.0, 3.0])
    kernel = numpy(layer.kernel)
    assert kernel.shape == (1, 1, 4, 3)
    expected = features @ kernel[0, 0]
    np.testing.assert_allclose(found, expected[range(3), ..., labels[0]], atol=1e-5)
    biased = numpy(layer(features, labels)) - found
    np.testing.assert_allclose(biased[:, 0, 0], [2, 1, 3], rtol=1e-5)
    padding = numpy(layer(features, np.int32([[-1, -1, 3]])))  # the nearest classes
    np.testing.assert_allclose(padding[0], expected[0, ..., 0] + 1, atol=1e-5)
    np.testing.assert_allclose(padding[2], expected[2, ..., 2] + 3, atol=1e-5)
