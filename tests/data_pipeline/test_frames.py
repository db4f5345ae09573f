import numpy as np
import pytest
from pycocotools import mask as mask_utils

from pac_keras.data.frames import object_frames, rasterise, semantic_cells
from pac_keras.data.sample import IDENTITY, Sample, Segmentation
from pac_keras.structures import CROWD


def rectangle(x0, y0, x1, y1):
    points = np.asarray([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], "float64")
    return Segmentation((points,))


def run_length(bitmap):
    return Segmentation(rle=mask_utils.encode(np.asfortranarray(bitmap.astype("uint8"))))


def expected_rectangle(box, frame, grid):
    """Cells of the grid whose centre is inside the box, from the coordinates alone."""
    x0, y0, x1, y1 = frame
    x = x0 + (np.arange(grid[1]) + 0.5) * (x1 - x0) / grid[1]
    y = y0 + (np.arange(grid[0]) + 0.5) * (y1 - y0) / grid[0]
    return ((y > box[1]) & (y < box[3]))[:, None] & ((x > box[0]) & (x < box[2]))


@pytest.mark.parametrize("offset", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_rectangles_are_drawn_where_cell_centres_are_inside(offset):
    box = (2 + offset, 3 + offset, 9 + offset, 6 + offset)
    drawn = rasterise(rectangle(*box), IDENTITY, (0, 0, 14, 12), (12, 14))
    np.testing.assert_array_equal(drawn, expected_rectangle(box, (0, 0, 14, 12), (12, 14)))
    assert drawn.sum() == 7 * 3


def test_frame_and_transform_are_applied():
    transform = np.asarray([[2, 5], [3, -1]], "float32")  # box 4..8, 2..6 -> 13..21, 5..17
    frame, grid = (11, 4, 23, 19), (5, 6)  # cells of 2 x 3: columns from 13, rows from 4, 7, ...
    drawn = rasterise(rectangle(4, 2, 8, 6), transform, frame, grid)
    np.testing.assert_array_equal(drawn, expected_rectangle((13, 5, 21, 17), frame, grid))
    assert drawn.sum() == 4 * 4


def test_run_lengths_and_polygons_agree_also_when_flipped():
    bitmap = np.zeros((20, 30), bool)
    bitmap[4:11, 6:19] = True
    frame, grid = (3.3, 1.7, 60.0, 50.5), (37, 41)
    for transform in ([[2, 0], [2.5, 0]], [[-2, 60], [2.5, 0]]):
        shape = rasterise(rectangle(6, 4, 19, 11), transform, frame, grid)
        np.testing.assert_array_equal(rasterise(run_length(bitmap), transform, frame, grid), shape)
        assert shape.sum() > 200


def test_a_hole_and_outside_of_run_lengths_are_zero():
    bitmap = np.ones((4, 4), bool)
    bitmap[1, 2] = False
    drawn = rasterise(run_length(bitmap), IDENTITY, (-1, -1, 5, 5), (6, 6))
    np.testing.assert_array_equal(drawn, np.pad(bitmap, 1))
    empty = rasterise(run_length(np.zeros((4, 4))), IDENTITY, (0, 0, 4, 4), (4, 4))
    assert empty.sum() == 0


def test_polygons_are_united():
    shape = Segmentation((*rectangle(0, 0, 4, 2).polygons, *rectangle(2, 1, 6, 3).polygons))
    assert rasterise(shape, IDENTITY, (0, 0, 8, 8), (8, 8)).sum() == 8 + 8 - 2


def test_frames_hold_box_and_shape_with_a_margin():
    boxes = np.asarray([[10, 20, 30, 60]], "float32")
    inside = object_frames(boxes, [rectangle(12, 22, 28, 58)], IDENTITY)
    np.testing.assert_allclose(inside, [[8, 17, 32, 63]])  # 5 % of 20 and 40, and 1 pixel
    larger = object_frames(boxes, [rectangle(10, 20, 50, 60)], IDENTITY)
    np.testing.assert_allclose(larger, [[7, 17, 53, 63]])
    bitmap = np.zeros((80, 80))
    bitmap[20:60, 10:50] = 1
    np.testing.assert_allclose(object_frames(boxes, [run_length(bitmap)], IDENTITY), larger)
    flipped = np.asarray([[-1, 60], [1, 0]], "float32")  # the shape covers 10..50 again
    np.testing.assert_allclose(object_frames(boxes, [rectangle(10, 20, 50, 60)], flipped), larger)


def sample(size, boxes, labels):
    return Sample(
        image=np.zeros((*size, 3), "uint8"),
        boxes=np.asarray(boxes, "float32"),
        labels=np.asarray(labels, "int32"),
        segmentations=tuple(rectangle(*box) for box in boxes),
        semantic=None,
        image_id=1,
        size=size,
    )


def test_semantic_cells_are_the_first_pixels_of_8x8():
    # Pixel (0, 8) is in the first object, (8, 8) in both and taken by the smaller one, (8, 16) in
    # the second alone; crowd is below both and covers the last column.
    objects = sample((16, 31), [[7, 0, 16, 9], [8, 8, 24, 12], [0, 0, 31, 16]], [0, 1, CROWD])
    area_of_second = 16 * 4
    assert area_of_second < 9 * 9
    cells = semantic_cells(objects, (32, 32), num_classes=3)
    expected = [[255, 0, 255, 255], [255, 1, 1, 255], [255] * 4, [255] * 4]
    assert cells.tolist() == expected


def test_semantic_background_and_padding():
    cells = semantic_cells(sample((9, 16), np.zeros((0, 4)), []), (32, 32), num_classes=3)
    assert cells.tolist() == [[3, 3, 255, 255]] * 2 + [[255] * 4] * 2
