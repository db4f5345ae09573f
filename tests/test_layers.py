import numpy as np
import pytest
from builders import count_weights, numpy, weight_gradients
from keras import layers, ops

from pac_keras.layers import (
    BatchNorm,
    ConvGroupNorm,
    ConvNorm,
    ResidualBlock,
    conv_relu,
    conv_stack,
    double_bilinear,
    normal_init,
    pad_borders,
    relu_init,
    resize_bilinear,
)

LINE = np.arange(4, dtype="float32")
ALIGNED = [0, 0.4286, 0.8571, 1.2857, 1.7143, 2.1429, 2.5714, 3]
HALF_PIXEL = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


@pytest.mark.parametrize(("align_corners", "expected"), [(True, ALIGNED), (False, HALF_PIXEL)])
def test_resizing_a_line_by_hand(align_corners, expected):
    across = numpy(resize_bilinear(LINE[None, None, :, None], (1, 8), align_corners))
    np.testing.assert_allclose(across[0, 0, :, 0], expected, atol=1e-4)
    down = numpy(resize_bilinear(LINE[None, :, None, None], (8, 1), align_corners))
    np.testing.assert_allclose(down[0, :, 0, 0], expected, atol=1e-4)


def test_doubling_by_hand():
    for align_corners, expected in ((False, HALF_PIXEL), (True, ALIGNED)):
        across = numpy(double_bilinear(LINE[None, None, :, None], align_corners))
        down = numpy(double_bilinear(LINE[None, :, None, None], align_corners))
        assert (across.shape, down.shape) == ((1, 2, 8, 1), (1, 8, 2, 1))
        np.testing.assert_allclose(across[0, 1, :, 0], expected, atol=1e-4)
        np.testing.assert_allclose(down[0, :, 1, 0], expected, atol=1e-4)


@pytest.mark.parametrize("align_corners", [True, False])
def test_resizing_to_and_from_one_pixel(align_corners):
    one = np.full((2, 1, 1, 3), 5, "float32")
    grown = numpy(resize_bilinear(one, (3, 4), align_corners))
    np.testing.assert_array_equal(grown, np.full((2, 3, 4, 3), 5))
    shrunk = numpy(resize_bilinear(LINE[None, None, :, None], (1, 1), align_corners))
    assert shrunk.item() == (0.0 if align_corners else 1.5)


def test_resizing_keeps_half_precision():
    assert numpy(resize_bilinear(np.ones((1, 2, 2, 1), "float16"), (4, 4))).dtype == np.float16


def test_borders_are_padded_on_all_sides():
    x = np.ones((1, 2, 3, 1), "float32")
    padded = numpy(pad_borders(x, 2, 7.0))
    assert padded.shape == (1, 6, 7, 1)
    np.testing.assert_array_equal(padded[:, 2:4, 2:5], x)
    assert padded.sum() == 6 + 7 * (42 - 6)
    assert pad_borders(x, 0) is x


def test_strided_convolution_pads_both_sides_alike():
    """With stride 2, Keras's "same" would look at pixels (0, 1, 2) first; PyTorch at (-1, 0, 1)."""
    layer = ConvNorm(1, 3, strides=2, activate=False)
    layer(np.zeros((1, 4, 4, 1), "float32"))
    layer.convolution.kernel.assign(np.arange(9, dtype="float32").reshape(3, 3, 1, 1))
    impulse = np.zeros((1, 4, 4, 1), "float32")
    impulse[0, 0, 0] = 1
    out = numpy(layer(impulse))[0, :, :, 0] * np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(out, [[4, 0], [0, 0]], atol=1e-5)  # its centre meets pixel (0, 0)


def test_conv_norm_halves_odd_sizes_upwards_and_activates():
    layer = ConvNorm(2, 3, strides=2)
    out = numpy(layer(np.random.default_rng(0).normal(size=(1, 7, 5, 3)).astype("float32")))
    assert out.shape == (1, 4, 3, 2)
    assert out.min() == 0
    assert not layer.convolution.use_bias


def test_grouped_convolution_sees_its_own_group_only():
    layer = ConvNorm(4, 1, groups=2, activate=False)
    x = np.zeros((1, 1, 1, 4), "float32")
    layer(x)
    layer.convolution.kernel.assign(np.ones((1, 1, 2, 4), "float32"))
    x[..., :2] = (1, 2)
    np.testing.assert_allclose(numpy(layer(x)).ravel(), [3, 3, 0, 0], atol=1e-4)


def statistics(layer):
    return np.concatenate([numpy(layer.moving_mean), numpy(layer.moving_variance)])


BATCH = np.random.default_rng(0).normal(3, 2, size=(4, 6, 6, 2)).astype("float32")


def test_frozen_batch_norm_keeps_statistics_while_scale_and_offset_learn():
    layer = BatchNorm(frozen=True)
    layer.build(BATCH.shape)
    layer.moving_mean.assign([1.0, 2.0])
    layer.moving_variance.assign([4.0, 9.0])
    before = statistics(layer)
    out = numpy(layer(BATCH, training=True))
    np.testing.assert_array_equal(statistics(layer), before)
    expected = (BATCH - [1, 2]) / np.sqrt(np.asarray([4, 9]) + 1e-5)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    gradients = weight_gradients(layer, lambda y: ops.sum(y * y), BATCH, training=True)
    assert [path.split("/")[-1] for path in gradients] == ["gamma", "beta"]
    for gradient in gradients.values():
        assert np.abs(gradient).min() > 1


def test_batch_norm_learns_statistics_with_torch_s_momentum():
    layer = BatchNorm()
    out = numpy(layer(BATCH, training=True))
    np.testing.assert_allclose(out.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    mean, variance = BATCH.mean(axis=(0, 1, 2)), BATCH.var(axis=(0, 1, 2))
    np.testing.assert_allclose(numpy(layer.moving_mean), 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(numpy(layer.moving_variance), 0.9 + 0.1 * variance, rtol=2e-2)


def test_batch_norm_s_epsilon_is_torch_s():
    layer = BatchNorm(frozen=True)
    layer.build((1, 1, 1, 1))
    layer.moving_variance.assign([0.0])
    out = numpy(layer(np.ones((1, 1, 1, 1), "float32")))
    assert out.item() == pytest.approx(1 / np.sqrt(1e-5), rel=1e-4)


def test_initial_weights():
    normal = numpy(normal_init(0.01)((300, 300)))
    assert normal.std() == pytest.approx(0.01, rel=0.02)
    he = numpy(relu_init()((3, 3, 64, 128)))
    assert he.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)  # fan out
    layer = conv_relu(8)
    out = numpy(layer(np.random.default_rng(0).normal(size=(1, 5, 7, 4)).astype("float32")))
    assert out.shape == (1, 5, 7, 8)
    assert out.min() == 0
    assert not numpy(layer.bias).any()


def test_residual_block_adds_and_does_not_rectify():
    block = ResidualBlock(3)
    x = np.random.default_rng(1).normal(size=(2, 5, 6, 3)).astype("float32")
    expected = x + numpy(block.second(block.first(x)))
    np.testing.assert_allclose(numpy(block(x)), expected, atol=1e-6)
    assert numpy(block.first(x)).min() == 0 and expected.min() < 0


def test_convolutions_as_a_stack_or_in_blocks():
    x = np.zeros((1, 4, 4, 5), "float32")
    for residual, kind in ((False, layers.Conv2D), (True, ResidualBlock)):
        stack = conv_stack(5, 4, residual)
        for layer in stack:
            layer(x)
        assert {type(layer) for layer in stack} == {kind}
        assert sum(count_weights(layer) for layer in stack) == 4 * (9 * 5 * 5 + 5)


def test_group_norm_agrees_with_numpy():
    """Each picture and group of channels has its own mean and deviation."""
    layer = ConvGroupNorm(6, 3)
    x = np.random.default_rng(2).normal(1, 3, size=(2, 4, 5, 6)).astype("float32")
    layer(x)
    copying = np.zeros((3, 3, 6, 6))
    copying[1, 1] = np.eye(6)
    layer.convolution.set_weights([copying])  # no bias
    scale, offset = np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6)
    layer.norm.set_weights([scale, offset])
    grouped = x.reshape(2, 20, 3, 2)  # channels (0, 1), (2, 3), (4, 5)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    normal = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(numpy(layer(x)), np.maximum(normal * scale + offset, 0), atol=1e-4)
    alone = numpy(layer(x[1:]))
    np.testing.assert_allclose(alone, numpy(layer(x))[1:], atol=1e-5)


def test_group_norm_s_epsilon_is_torch_s_and_its_kernel_starts_as_asked():
    layer = ConvGroupNorm(64, 32, normal_init(0.01))
    assert layer(np.zeros((1, 3, 5, 64), "float32")).shape == (1, 3, 5, 64)
    assert numpy(layer.convolution.kernel).std() == pytest.approx(0.01, rel=0.02)
    assert count_weights(layer) == 9 * 64 * 64 + 2 * 64
    tiny = np.zeros((1, 1, 1, 64), "float32")
    tiny[..., 0] = 0.002  # of a group of two: mean and deviation .001
    copying = np.zeros((3, 3, 64, 64))
    copying[1, 1] = np.eye(64)
    layer.convolution.set_weights([copying])
    assert numpy(layer(tiny))[0, 0, 0, 0] == pytest.approx(1e-3 / np.sqrt(1e-6 + 1e-5), rel=1e-3)
