import numpy as np
import pytest
from builders import numpy

from pac_keras.roi.features import (
    branch_sources,
    from_context,
    from_map,
    from_semantic,
    fuse,
    points_of_map,
    roi_levels,
)


def test_levels_by_hand():
    sides = np.asarray([0, 1, 111, 112, 223, 224, 447, 448, 5000], "float32")
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    np.testing.assert_array_equal(numpy(roi_levels(boxes)), [0, 0, 0, 1, 1, 2, 2, 3, 3])
    long = np.asarray([[0, 0, 448, 28], [10, 10, 5, 300]], "float32")  # side 112; inverted
    np.testing.assert_array_equal(numpy(roi_levels(long)), [1, 0])


SEMANTIC = np.random.default_rng(0).normal(size=(2, 8, 10, 3)).astype("float32")
BOXES = np.asarray([[[0, 0, 60, 40], [8, 8, 24, 30]], [[3, 5, 70, 60], [0, 0, 0, 0]]], "float32")


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_small_semantic_grids_are_means_of_the_large_one(sampling_ratio):
    source = from_semantic(SEMANTIC, sampling_ratio)
    large, small = numpy(source(BOXES, 14)), numpy(source(BOXES, 7))
    assert large.shape == (4, 14, 14, 3)
    means = large.reshape(4, 7, 2, 7, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(small, means, atol=1e-6)


def test_semantic_source_has_stride_8():
    ramp = np.broadcast_to(np.arange(10, dtype="float32")[None, None, :, None], (1, 8, 10, 1))
    cut = numpy(from_semantic(ramp)(np.asarray([[[8, 8, 64, 64]]], "float32"), 14))
    # bins of 4 pixels = half a cell from x = 1 - 0.5: means at 0.75, 1.25, ...
    np.testing.assert_allclose(cut[0, 0, :, 0], 0.75 + 0.5 * np.arange(14), rtol=1e-5)


def test_sources_are_summed_or_stacked():
    ones = lambda boxes, size: np.ones((4, size, size, 3), "float32")  # noqa: E731
    semantic = from_semantic(SEMANTIC)
    alone = numpy(semantic(BOXES, 14))
    np.testing.assert_array_equal(numpy(fuse(semantic)(BOXES, 14)), alone)
    np.testing.assert_allclose(numpy(fuse(ones, semantic)(BOXES, 14)), alone + 1)
    stacked = numpy(fuse(ones, semantic, reduce=lambda x: 2 * x)(BOXES, 14))
    np.testing.assert_array_equal(
        stacked, 2 * np.concatenate([np.ones_like(alone), alone], axis=-1)
    )


@pytest.mark.parametrize("branches", [(), ("box",), ("mask",), ("box", "mask")])
def test_branches_that_receive_semantic_features(branches):
    pyramid = {
        level: np.full((2, 64 // 2**level, 96 // 2**level, 3), 5, "f4") for level in range(2, 7)
    }
    semantic = np.full((2, 8, 12, 3), 2, "float32")
    box, mask = branch_sources(pyramid, semantic, branches)
    found = [numpy(source(BOXES[:, :1], 14))[0, 7, 7, 0] for source in (box, mask)]
    assert found == [7 if "box" in branches else 5, 7 if "mask" in branches else 5]
    for source in branch_sources(pyramid, None, branches):
        assert numpy(source(BOXES[:, :1], 14))[0, 7, 7, 0] == 5


def test_context_is_the_same_in_all_cells_of_a_picture():
    context = np.float32([[1, 2, 3], [4, 5, 6]])[:, None, None]
    features = lambda boxes, size: np.zeros((4, size, size, 3), "float32")  # noqa: E731
    cut = numpy(fuse(features, from_context(context))(BOXES, 7))
    assert cut.shape == (4, 7, 7, 3)
    expected = np.repeat(context, 2, axis=0)
    np.testing.assert_array_equal(cut, np.broadcast_to(expected, cut.shape))


def test_points_of_a_map_fade_outside_and_rois_repeat_its_border():
    ones = np.ones((1, 4, 4, 1), "float32")
    box = np.float32([[[-6, 0, 10, 16]]])  # four points a row, at -1.5, -0.5, 0.5, 1.5 cells
    points = numpy(points_of_map(ones, 4)(box, 4))[0, 1, :, 0]
    np.testing.assert_allclose(points, [0.0, 0.5, 1.0, 1.0], atol=1e-6)
    region = numpy(from_map(ones, 4, sampling_ratio=1)(box, 4))[0, 1, :, 0]
    np.testing.assert_allclose(region, [0.0, 1.0, 1.0, 1.0], atol=1e-6)


def test_points_are_one_bilinear_sample_a_cell():
    ramp = np.broadcast_to(np.arange(10, dtype="float32")[None, None, :, None], (1, 8, 10, 1))
    cut = numpy(points_of_map(ramp, 4)(np.float32([[[8, 8, 24, 24]]]), 2))
    np.testing.assert_allclose(cut[0, 0, :, 0], [(12 / 4) - 0.5, (20 / 4) - 0.5], rtol=1e-5)
