import numpy as np
import pytest
from builders import count_weights, numpy

from pac_keras.pyramid.fpn import FPN, RetinaFPN


def maps(channels, height=64, width=96):
    """{2..5: zeros [1, h, w, C]} of a picture, with `channels` of C2..C5."""
    return {
        level: np.zeros((1, height // 2**level, width // 2**level, c), "float32")
        for level, c in zip((2, 3, 4, 5), channels, strict=True)
    }


@pytest.mark.parametrize(
    ("channels", "count"),
    [((256, 512, 1024, 2048), 3_344_384), ((64, 128, 256, 512), 2_607_104)],
)
def test_numbers_of_weights(channels, count):
    pyramid = FPN()
    pyramid(maps(channels))
    assert count_weights(pyramid) == count


def test_levels_strides_and_the_coarsest_level():
    random = np.random.default_rng(0)
    backbone = maps((2, 3, 4, 5), 800, 1344)
    backbone = {k: random.normal(size=x.shape).astype("float32") for k, x in backbone.items()}
    pyramid = {k: numpy(x) for k, x in FPN(3)(backbone).items()}
    shapes = {2: (200, 336), 3: (100, 168), 4: (50, 84), 5: (25, 42), 6: (13, 21)}
    assert {k: x.shape for k, x in pyramid.items()} == {k: (1, *s, 3) for k, s in shapes.items()}
    np.testing.assert_array_equal(pyramid[6][0, 12, 20], pyramid[5][0, 24, 40])
    np.testing.assert_array_equal(pyramid[6], pyramid[5][:, ::2, ::2])


def identity_fpn():
    """An FPN of one channel whose convolutions all copy."""
    layer = FPN(1)
    layer(maps((1, 1, 1, 1)))
    for conv in layer.lateral:
        conv.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    center = np.zeros((3, 3, 1, 1))
    center[1, 1] = 1
    for conv in layer.output_convs:
        conv.set_weights([center, np.zeros(1)])
    return layer


def test_coarse_cells_are_added_to_the_cells_that_they_cover():
    backbone = maps((1, 1, 1, 1))
    backbone[5][0, 1, 2] = 1
    backbone[4][0, 0, 0] = 10
    backbone[2][0, 15, 23] = 100
    pyramid = {k: numpy(x)[0, :, :, 0] for k, x in identity_fpn()(backbone).items()}
    expected = np.zeros((16, 24))
    expected[8:16, 16:24] = 1
    expected[:4, :4] = 10
    expected[15, 23] += 100
    np.testing.assert_array_equal(pyramid[2], expected)
    assert pyramid[5].sum() == 1  # nothing flows upwards
    assert pyramid[4].sum() == 4 + 10


def test_the_pyramid_is_linear():
    backbone = {k: np.full_like(x, -1) for k, x in maps((1, 1, 1, 1)).items()}
    pyramid = identity_fpn()(backbone)
    assert [float(numpy(pyramid[k])[0, 0, 0, 0]) for k in (2, 3, 4, 5)] == [-4, -3, -2, -1]


def test_levels_and_weights_of_the_one_stage_pyramid():
    layer = RetinaFPN()
    pyramid = layer(maps((256, 512, 1024, 2048), 160, 192))
    assert count_weights(layer) == 7_997_440
    assert [tuple(x.shape[1:]) for _, x in sorted(pyramid.items())] == [
        (20, 24, 256),
        (10, 12, 256),
        (5, 6, 256),
        (3, 3, 256),
        (2, 2, 256),
    ]
    large = RetinaFPN(1)(maps((1, 1, 1, 1), 800, 1344))
    shapes = {3: (100, 168), 4: (50, 84), 5: (25, 42), 6: (13, 21), 7: (7, 11)}
    assert {k: tuple(x.shape) for k, x in large.items()} == {
        k: (1, *size, 1) for k, size in shapes.items()
    }


def copying_retina_fpn(**options):
    """A RetinaFPN of one channel whose convolutions all copy."""
    layer = RetinaFPN(1, **options)
    layer(maps((1, 1, 1, 1)))
    center = np.zeros((3, 3, 1, 1))
    center[1, 1] = 1
    for conv in layer.lateral:
        conv.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    for conv in (*layer.output_convs, *layer.extra_convs):
        conv.set_weights([center, np.zeros(1)])
    return layer


def test_coarsest_levels_are_strided_convolutions_of_the_backbone_s_last_map():
    random = np.random.default_rng(1)
    backbone = maps((1, 1, 1, 1), 224, 160)
    backbone = {k: random.normal(size=x.shape).astype("float32") for k, x in backbone.items()}
    backbone[2] += np.nan  # not looked at
    layer = copying_retina_fpn()
    layer.lateral[2].set_weights([np.full((1, 1, 1, 1), 7), np.zeros(1)])
    pyramid = {k: numpy(x) for k, x in layer(backbone).items()}
    assert sorted(pyramid) == [3, 4, 5, 6, 7]
    np.testing.assert_allclose(pyramid[5], 7 * backbone[5], rtol=1e-6)
    # 7 x 5 cells; both sides are padded, so the middles are the even ones. Negative ones remain.
    np.testing.assert_array_equal(pyramid[6], backbone[5][:, ::2, ::2])
    np.testing.assert_array_equal(pyramid[7], pyramid[6][:, ::2, ::2])
    assert pyramid[6].min() < 0


def test_coarser_maps_are_enlarged_as_asked():
    backbone = maps((1, 1, 1, 1))
    backbone[5][0, :, :, 0] = [0, 1, 2]
    nearest = numpy(copying_retina_fpn()(backbone)[4])[0, 1, :, 0]
    np.testing.assert_array_equal(nearest, [0, 0, 1, 1, 2, 2])
    bilinear = numpy(copying_retina_fpn(bilinear=True)(backbone)[4])[0, 1, :, 0]
    np.testing.assert_allclose(bilinear, [0, 0.25, 0.75, 1.25, 1.75, 2], atol=1e-6)
