import numpy as np
import pytest
from builders import count_weights, ground_truth, numpy, weight_gradients
from keras import ops

from pac_keras.heads.semantic import (
    ASPP,
    PASPE,
    ClassMapHead,
    FusedSemanticHead,
    cells_inside,
    class_map_loss,
    semantic_head,
    semantic_loss,
)
from pac_keras.structures import CROWD


def pyramid(height, width, channels, value=0.0):
    """{2..6: constant [1, h, w, channels]} of a picture."""
    return {
        level: np.full((1, -(-height // 2**level), -(-width // 2**level), channels), value, "f4")
        for level in range(2, 7)
    }


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("paspe", 183), 4_702_391),
        (("paspe", 183, 256, 1), 4_112_311),
        (("paspe", 183, 256, 0), 3_044_791),
        (("aspp", 183), 4_112_567),
        (("htc", 183), 2_802_103),
    ],
)
def test_numbers_of_weights_and_shapes(arguments, count):
    head = semantic_head(*arguments)
    features, logits = head(pyramid(64, 96, 256))
    assert count_weights(head) == count
    assert (features.shape, logits.shape) == ((1, 8, 12, 256), (1, 8, 12, 183))


def test_kinds_of_heads():
    assert semantic_head("none", 5) is None
    with pytest.raises(ValueError, match="semantic='deeplab'"):
        semantic_head("deeplab", 5)


@pytest.mark.parametrize("kind", ["paspe", "aspp", "htc"])
def test_every_weight_gets_a_gradient(kind):
    head = semantic_head(kind, 5, channels=4)
    random = np.random.default_rng(0)
    maps = {k: random.normal(size=x.shape).astype("f4") for k, x in pyramid(64, 96, 4).items()}
    head(maps)
    for variable in head.trainable_variables:  # biases of 1 keep all units alive
        if variable.path.endswith("bias"):
            variable.assign(np.ones(variable.shape))
    gradients = weight_gradients(head, lambda outputs: sum(ops.sum(x * x) for x in outputs), maps)
    assert len(gradients) == len(head.trainable_variables) > 10
    assert all(np.abs(x).max() > 0 for x in gradients.values())


def identity(conv, scale=1.0):
    """Makes a convolution of one output channel the sum of all taps and inputs."""
    conv.set_weights([np.full(conv.kernel.shape, scale), np.zeros(conv.bias.shape)])


def test_paspe_sees_an_impulse_at_each_dilation_and_its_mean():
    layer = PASPE(1)
    layer(np.zeros((1, 41, 45, 1), "float32"))
    x = np.zeros((1, 41, 45, 1), "float32")
    x[0, 20, 22] = 1
    for conv in layer.branches:
        identity(conv)
    reached = [0, 1, 6, 12, 18]
    for branch, dilation in enumerate([*reached, None]):
        kernel = np.zeros((1, 1, 6, 1))
        kernel[0, 0, branch] = 1
        layer.fuse.set_weights([kernel, np.zeros(1)])
        out = numpy(layer(x))[0, :, :, 0]
        expected = np.zeros((41, 45))
        if dilation is None:
            expected[:] = 1 / (41 * 45)
        else:
            taps = sorted({-dilation, 0, dilation})
            expected[np.ix_([20 + t for t in taps], [22 + t for t in taps])] = 1
        np.testing.assert_allclose(out, expected, atol=1e-7)


def test_paspe_has_no_convolution_after_its_pooling_and_aspp_has():
    paspe, aspp = PASPE(4), ASPP(4)
    x = np.zeros((1, 8, 8, 4), "float32")
    paspe(x), aspp(x)
    assert len(paspe.branches) == 5
    assert [conv.kernel_size for conv in paspe.branches] == [(1, 1)] + [(3, 3)] * 4
    assert not hasattr(paspe, "pooled")
    assert [conv.dilation_rate[0] for conv in aspp.branches] == [1, 6, 12, 18]
    assert aspp.pooled.kernel.shape == (1, 1, 4, 4)


def test_aspp_convolves_the_mean():
    layer = ASPP(1)
    x = np.zeros((1, 6, 8, 1), "float32")
    x[0, 1, 1] = 48
    layer(x)
    identity(layer.pooled, 3.0)
    layer.fuse.set_weights([np.eye(5)[None, None, 4:].reshape(1, 1, 5, 1), np.zeros(1)])
    np.testing.assert_allclose(numpy(layer(x)), 3, rtol=1e-6)


def test_pictures_do_not_mix_in_the_global_mean():
    layer = PASPE(1)
    x = np.stack([np.full((6, 6, 1), v, "float32") for v in (1, 2)])
    layer(x)
    layer.fuse.set_weights([np.eye(6)[5].reshape(1, 1, 6, 1), np.zeros(1)])
    out = numpy(layer(x))
    np.testing.assert_allclose(out[:, 0, 0, 0], [1, 2], rtol=1e-6)


def test_atrous_head_lays_p5_over_p3_bilinearly():
    head = semantic_head("paspe", 2, channels=1, decoder_convs=0)
    maps = pyramid(128, 128, 1)
    maps[5][0, :, :, 0] = np.arange(4)[None, :]
    maps[3][0, 5, 7] = 100
    maps[2] += np.nan  # P2, P4 and P6 are not looked at
    maps[4] += np.nan
    maps[6] += np.nan
    head(maps)
    for conv in head.pooling.branches:
        identity(conv)
    head.pooling.fuse.set_weights([np.eye(6)[0].reshape(1, 1, 6, 1), np.zeros(1)])
    identity(head.embedding)
    out = numpy(head(maps)[0])[0, :, :, 0]
    expected = np.tile(np.clip((np.arange(16) + 0.5) / 4 - 0.5, 0, 3), (16, 1))
    expected[5, 7] += 100
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_fused_head_sums_all_levels_with_aligned_corners():
    head = FusedSemanticHead(2, channels=1)
    maps = pyramid(128, 128, 1)
    head(maps)
    for level, conv in enumerate(head.lateral, start=2):
        identity(conv, 10.0 ** (level - 2))
    copying = np.zeros((3, 3, 1, 1))
    copying[1, 1] = 1
    for conv in head.convs:
        conv.set_weights([copying, np.zeros(1)])
    identity(head.embedding)
    ones = {k: x + 1 for k, x in maps.items()}
    np.testing.assert_allclose(numpy(head(ones)[0]), 11111, rtol=1e-6)
    maps[5][0, :, :, 0] = np.arange(4)[None, :]
    out = numpy(head(maps)[0])[0, 3, :, 0]
    np.testing.assert_allclose(out, 1000 * np.linspace(0, 3, 16), rtol=1e-5)


def test_ignored_cells_cost_nothing():
    logits = np.log([[[[0.5, 0.5], [0.9, 0.1]]]]).astype("float32")
    target = np.asarray([[[1, 255]]], "uint8")
    total, count = semantic_loss(logits, target)
    assert float(count) == 1
    assert float(total) == pytest.approx(np.log(2), rel=1e-5)
    nothing = semantic_loss(logits, np.full((1, 1, 2), 255, "uint8"))
    assert tuple(map(float, nothing)) == (0, 0)


def test_class_maps_are_one_convolution():
    head = ClassMapHead(80, 256)
    assert count_weights(head) == 257 * 80  # before it is called, too
    logits = head(np.full((2, 3, 4, 256), -1, "float32"))
    assert logits.shape == (2, 3, 4, 80)
    assert numpy(logits).min() < 0


def set_pixels(*cells, side=16):
    """Bitmap `[side, side]` with the given middle pixels, 0..3, of cells (y, x) of 8 px."""
    bitmap = np.zeros((side, side), "uint8")
    for y, x, count in cells:
        for dy, dx in [(3, 3), (3, 4), (4, 3), (4, 4)][:count]:
            bitmap[8 * y + dy, 8 * x + dx] = 1
    return bitmap


def test_class_map_loss_by_hand():
    """Of class 1: cells (0, 0), twice, and (1, 1); of class 0: cell (0, 0). Two pixels are few."""
    masks = np.stack(
        [
            set_pixels((0, 0, 4), (1, 1, 3), (1, 0, 2)),
            set_pixels((0, 0, 3)),
            set_pixels((0, 0, 4)),
            set_pixels((0, 1, 4)),  # a crowd
        ]
    )
    frames = [[[0, 0, 16, 16]] * 4]
    logits = np.random.default_rng(0).normal(size=(1, 2, 2, 3)).astype("float32")
    target = np.zeros((2, 2, 3))
    target[0, 0, :2] = target[1, 1, 1] = 1
    probability = 1 / (1 + np.exp(-logits[0].astype("float64")))
    error = -np.log(np.where(target == 1, probability, 1 - probability)).sum(axis=-1)
    for extra in (0, 2):
        truth = ground_truth(frames, [[1, 0, 1, CROWD]], masks[None], frames, extra)
        total, count = class_map_loss(logits, truth, np.int32([[16, 16]]))
        assert float(total) == pytest.approx(error.sum(), rel=1e-5)
        assert float(count) == 4
        total, count = class_map_loss(logits, truth, np.int32([[16, 8]]))
        assert float(total) == pytest.approx(error[:, 0].sum(), rel=1e-5)
        assert float(count) == 2


def test_cells_that_begin_inside_a_picture():
    found = numpy(cells_inside(np.int32([[9, 16], [8, 17]]), 2, 3, 8))
    np.testing.assert_array_equal(found, [[[1, 1, 0], [1, 1, 0]], [[1, 1, 1], [0, 0, 0]]])
