import numpy as np
import pytest
from builders import count_weights, numpy, weight_gradients
from keras import ops

from pac_keras.heads.context import (
    FeatureRelay,
    GlobalContextHead,
    context_loss,
    feature_relays,
    relayed,
)
from pac_keras.structures import CROWD, PADDING

HIDDEN = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")


def test_number_of_weights_at_the_papers_size():
    context, relay = GlobalContextHead(80), FeatureRelay()
    vector, logits = context(np.zeros((2, 3, 4, 256), "float32"))
    assert (vector.shape, logits.shape) == ((2, 1, 1, 256), (2, 80))
    assert count_weights(context) == 2_380_880
    assert relay(np.zeros((2, 1024), "float32")).shape == (2, 14, 14, 256)
    assert count_weights(relay) == 12_857_600


def test_context_is_the_mean_of_the_residual_branch():
    head = GlobalContextHead(3, channels=4)
    features = np.random.default_rng(1).normal(size=(2, 3, 5, 4)).astype("float32")
    head(features)
    for block in head.convs:  # blocks that add nothing leave their input, not rectified
        block.second.kernel.assign(np.zeros(block.second.kernel.shape))
    context, logits = head(features)
    mean = features.mean(axis=(1, 2))
    assert mean.min() < 0
    np.testing.assert_allclose(numpy(context)[:, 0, 0], mean, atol=1e-6)
    expected = mean @ numpy(head.classes.kernel) + numpy(head.classes.bias)
    np.testing.assert_allclose(numpy(logits), expected, atol=1e-6)


def test_every_weight_gets_a_gradient():
    for layer, given in (
        (GlobalContextHead(3, channels=4), np.ones((2, 3, 5, 4), "float32") * [1, -1, 2, 3]),
        (FeatureRelay(channels=2), HIDDEN),
    ):
        layer(given)
        total = lambda out: ops.sum(ops.square(out[1] if isinstance(out, tuple) else out))  # noqa: E731
        gradients = weight_gradients(layer, total, given)
        assert all(np.abs(x).max() > 0 for x in gradients.values())


def test_context_loss_by_hand():
    """Class 1 twice and class 2 in the first picture; crowd and padding say nothing."""
    labels = np.int32([[1, 1, 2], [CROWD, PADDING, PADDING]])
    logits = np.float32([[0, 2, -1], [3, 0, -2]])
    present = np.float32([[0, 1, 1], [0, 0, 0]])
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(present, probability, 1 - probability)).sum()
    total, count = context_loss(logits, labels)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(count) == 6


def test_relay_draws_seven_cells_and_keeps_their_corners():
    relay = FeatureRelay(channels=2)
    out = numpy(relay(HIDDEN))
    kernel, bias = numpy(relay.dense.kernel), numpy(relay.dense.bias)
    drawn = (HIDDEN @ kernel + bias).reshape(3, 7, 7, 2)
    np.testing.assert_allclose(out[:, ::13, ::13], drawn[:, ::6, ::6], atol=1e-5)
    # Between: 14 cells over 6 intervals of 7, so cell 1 lies 6/13 between the first two.
    between = drawn[:, 0, 0] * (1 - 6 / 13) + drawn[:, 0, 1] * 6 / 13
    np.testing.assert_allclose(out[:, 0, 1], between, atol=1e-5)
    assert out.min() < 0  # not rectified


class Stage:
    """Stands for a BoxStage that knows `HIDDEN` of all boxes."""

    def hidden(self, pool, boxes):
        assert pool == "pool" and boxes == "boxes"
        return HIDDEN


def test_relayed_features_are_a_sum_or_stay():
    features = np.random.default_rng(2).normal(size=(3, 14, 14, 2)).astype("float32")
    relay, nothing = feature_relays(1, 2, True), feature_relays(2, 2, False)
    assert nothing == [None, None]
    assert relayed(features, None, Stage(), "pool", "boxes") is features
    found = numpy(relayed(features, relay[0], Stage(), "pool", "boxes"))
    np.testing.assert_allclose(found, features + numpy(relay[0](HIDDEN)), atol=1e-6)
