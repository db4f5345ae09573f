import numpy as np
from builders import numpy

from pac_keras.proposals.anchors import anchor_grid, base_anchors, inside_picture

STRIDES = (4, 8, 16, 32, 64)


def test_base_anchors_by_hand():
    wide, square, tall = base_anchors(4)  # height / width = 1/2, 1, 2
    np.testing.assert_allclose(wide, [-22.627, -11.314, 22.627, 11.314], atol=1e-3)
    np.testing.assert_array_equal(square, [-16, -16, 16, 16])
    np.testing.assert_allclose(tall, [-11.314, -22.627, 11.314, 22.627], atol=1e-3)


def test_base_anchors_of_another_scale():
    first = base_anchors(8, scales=(4,))[0]
    np.testing.assert_allclose(first, [-22.627, -11.314, 22.627, 11.314], atol=1e-3)
    assert base_anchors(8, ratios=(1.0,)).shape == (1, 4)


def test_order_is_row_column_ratio_and_centres_are_cell_corners():
    grid = numpy(anchor_grid(2, 3, 8, base_anchors(8))).reshape(2, 3, 3, 4)
    centers = (grid[..., :2] + grid[..., 2:]) / 2
    for y in range(2):
        for x in range(3):
            np.testing.assert_allclose(centers[y, x], [[8 * x, 8 * y]] * 3, atol=1e-5)
    sides = grid[..., 2:] - grid[..., :2]
    np.testing.assert_allclose(sides[1, 2, :, 1] / sides[1, 2, :, 0], [0.5, 1, 2], rtol=1e-5)


def test_inside_by_hand_per_picture_and_border():
    anchors = np.asarray(
        [[0, 0, 9, 9], [-1, 0, 9, 9], [0, 0, 10, 9], [0, 0, 9, 10], [0, -3, 9, 9]], "float32"
    )
    sizes = np.asarray([[10, 10], [11, 10]], "int32")  # (height, width)
    strict = numpy(inside_picture(anchors, sizes, 0))
    np.testing.assert_array_equal(strict, [[1, 0, 0, 0, 0], [1, 0, 0, 1, 0]])
    loose = numpy(inside_picture(anchors, sizes, 2))
    np.testing.assert_array_equal(loose, [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
