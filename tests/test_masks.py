from pathlib import Path

import numpy as np
import pytest
from builders import numpy

from pac_keras import masks
from pac_keras.data.frames import object_frames, rasterise
from pac_keras.data.sample import IDENTITY, Segmentation

SIZES = np.asarray([[100, 100]], "int32")


def targets(frame, frame_box, box, grid, sizes=SIZES):
    """`roi_targets` of one region, NumPy `[grid, grid]`."""
    frame = np.asarray(frame, "uint8")[None, None]
    boxes = (np.asarray(b, "float32")[None, None] for b in (frame_box, box))
    return numpy(masks.roi_targets(frame, *boxes, sizes, grid))[0, 0]


LEFT_HALF = np.tile(np.asarray([1, 1, 0, 0], "uint8"), (4, 1))


def test_target_of_the_frame_itself():
    drawn = targets(LEFT_HALF, (10, 10, 50, 50), (10, 10, 50, 50), 2)
    np.testing.assert_array_equal(drawn, [[1, 0], [1, 0]])


def test_target_of_a_shifted_region():
    # The object covers x 10..30 and y 10..50; cells of 10 pixels start at (20, 40).
    drawn = targets(LEFT_HALF, (10, 10, 50, 50), (20, 40, 50, 70), 3)
    np.testing.assert_array_equal(drawn, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_target_is_zero_outside_the_frame():
    drawn = targets(np.ones((4, 4)), (40, 40, 60, 60), (20, 20, 80, 80), 6)
    expected = np.zeros((6, 6))
    expected[2:4, 2:4] = 1
    np.testing.assert_array_equal(drawn, expected)


def test_cells_that_are_half_covered_belong_to_the_object():
    bitmap = np.zeros((100, 100), "uint8")
    bitmap[10:20, 11:15] = 1  # cells of 2 pixels from x = 10: half, full, half of the object
    drawn = targets(bitmap, (0, 0, 100, 100), (10, 10, 20, 20), 5)
    np.testing.assert_array_equal(drawn, np.tile([1, 1, 1, 0, 0], (5, 1)))


def test_region_is_clipped_to_the_picture():
    drawn = targets(np.ones((4, 4)), (-20, 0, 20, 40), (-20, 0, 20, 40), 2, np.asarray([[30, 10]]))
    # Clipped to 0..10 x 0..30: all of it is object. Unclipped cells would reach below the frame.
    np.testing.assert_array_equal(drawn, np.ones((2, 2)))
    outside = targets(np.ones((4, 4)), (0, 0, 40, 40), (50, 50, 70, 70), 2, np.asarray([[40, 40]]))
    assert not outside.any()


def test_empty_regions_and_frames_give_zeros():
    full = np.ones((4, 4))
    assert not targets(full, (0, 0, 40, 40), (10, 10, 10, 30), 4).any()
    assert not targets(full, (0, 0, 40, 40), (0, 0, 0, 0), 4).any()
    assert not targets(np.zeros((4, 4)), (0, 0, 40, 40), (0, 0, 40, 40), 4).any()
    assert not targets(np.zeros((4, 4)), (0, 0, 0, 0), (0, 0, 0, 0), 4).any()


def test_small_frames_agree_with_whole_picture_frames():
    """The grid of an object's own frame replaces a bitmap: few cells of 28 x 28 may differ."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    random = np.random.default_rng(3)
    differing = []
    for _ in range(8):
        center, radius = random.uniform(60, 140, 2), random.uniform(20, 50, 2)
        wave = 1 + 0.25 * np.sin(5 * angle + random.uniform(0, 6))
        outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * wave[:, None]
        shape = Segmentation((center + outline * radius,))
        points = shape.polygons[0]
        box = np.concatenate([points.min(axis=0), points.max(axis=0)]).astype("float32")
        own = object_frames(box[None], (shape,), IDENTITY)[0]
        region = box + random.uniform(-6, 6, 4).astype("float32")
        sizes, whole = np.asarray([[224, 224]]), np.asarray([0, 0, 224, 224], "float32")
        small = targets(rasterise(shape, IDENTITY, own, (112, 112)), own, region, 28, sizes)
        large = targets(rasterise(shape, IDENTITY, whole, (224, 224)), whole, region, 28, sizes)
        assert large.sum() > 150
        differing.append(np.mean(small != large))
    assert np.max(differing) < 0.02, differing
    assert np.mean(differing) < 0.01, differing


def test_regions_larger_than_a_thousand_pixels_are_averaged_exactly():
    stripes = np.zeros((1792, 1792), "uint8")
    stripes[:, ::2] = 1  # every second column: the mean of a cell of 64 pixels is one half
    stripes[:, 1792 // 2 :] = 0
    box = (0, 0, 1792, 1792)
    drawn = targets(stripes, box, box, 28, np.asarray([[1792, 1792]]))
    np.testing.assert_array_equal(drawn, np.tile(np.arange(28) < 14, (28, 1)))


def share(frame, frame_box, box):
    boxes = (np.asarray(b, "float32")[None, None] for b in (frame_box, box))
    return float(numpy(masks.share_inside(np.asarray(frame, "uint8")[None, None], *boxes))[0, 0])


def test_share_inside_by_hand():
    full, frame = np.ones((8, 8)), (0, 0, 80, 80)
    assert share(full, frame, frame) == 1
    assert share(full, frame, (0, 0, 40, 80)) == 0.5
    assert share(full, frame, (40, 40, 90, 90)) == 0.25
    assert share(full, frame, (80, 0, 160, 80)) == 0
    assert share(LEFT_HALF, (0, 0, 40, 40), (10, 0, 40, 20)) == 0.25


def test_share_inside_cuts_the_region_to_whole_pixels():
    pixels, frame = np.ones((10, 10)), (0, 0, 10, 10)  # one cell per pixel
    assert share(pixels, frame, (0.9, 0.9, 5.9, 5.9)) == 0.25  # 0..5
    assert share(pixels, frame, (3.2, 3.2, 3.3, 3.3)) == pytest.approx(0.01)  # at least a pixel
    assert share(pixels, frame, (-7, -7, 2, 10)) == pytest.approx(0.2)


def test_share_inside_of_an_empty_frame_is_zero():
    assert share(np.zeros((4, 4)), (0, 0, 40, 40), (0, 0, 40, 40)) == 0
    assert share(np.zeros((4, 4)), (0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_pasting_at_the_same_size_copies():
    mask = np.random.default_rng(0).uniform(size=(1, 1, 5, 7)).astype("float32")
    frame = np.asarray([[[3, 2, 10, 7]]], "float32")
    picture = numpy(masks.paste(mask, frame, 9, 12))[0, 0]
    np.testing.assert_allclose(picture[2:7, 3:10], mask[0, 0], atol=2e-6)
    assert picture.sum() == pytest.approx(mask.sum(), rel=1e-5)


def test_pasting_interpolates_between_cell_centres():
    mask = np.asarray([[[[0, 1]]]], "float32")
    picture = numpy(masks.paste(mask, np.asarray([[[0, 0, 8, 1]]], "float32"), 1, 8))[0, 0, 0]
    # Cell centres at x = 2 and 6; beyond the last centre the value fades towards zero.
    np.testing.assert_allclose(picture, [0, 0, 0.125, 0.375, 0.625, 0.875, 0.875, 0.625], atol=1e-6)


def test_pasting_agrees_with_the_reference():
    case = np.load(Path(__file__).parent / "data" / "paste.npz")
    drawn = numpy(masks.paste(case["masks"][None], case["boxes"][None], 128, 160))[0]
    flat = (case["boxes"][:, 2] <= case["boxes"][:, 0]).nonzero()[0]
    assert list(flat) == [2]  # the reference draws a band there, see data/README.md
    np.testing.assert_allclose(np.delete(drawn, 2, 0), np.delete(case["soft"], 2, 0), atol=2e-5)
    assert not drawn[2].any()


def test_mask_iou_by_hand():
    a, b = np.zeros((2, 4, 4), "float32"), np.zeros((2, 4, 4), "float32")
    a[0, :2], b[0, 1:] = 1, 1  # 8 and 12 cells, 4 of them shared
    np.testing.assert_allclose(numpy(masks.mask_iou(a, b)), [4 / 16, 0])
    np.testing.assert_allclose(numpy(masks.mask_iou(a, a)), [1, 0])


BORDERS = {  # of rows 2..6, columns 0..3 of an 8 x 8 grid; RefineMask's public code
    1: "00000000/11111000/11111000/10011000/10011000/10011000/11111000/11111000",
    2: "11110000/11111000/11111100/11111100/11111100/11111100/11111100/11111000",
}


@pytest.mark.parametrize("width", BORDERS)
def test_boundary_as_the_public_code_draws_it(width):
    mask = np.zeros((1, 8, 8), "float32")
    mask[0, 2:7, :4] = 1
    expected = [[float(cell) for cell in row] for row in BORDERS[width].split("/")]
    np.testing.assert_array_equal(numpy(masks.boundary(mask, width))[0], expected)


def test_boundary_of_nothing_and_of_everything():
    both = np.stack([np.zeros((6, 6)), np.ones((6, 6))]).astype("float32")
    found = numpy(masks.boundary(both, 1))
    assert not found[0].any()
    inside = np.ones((6, 6))
    inside[1:-1, 1:-1] = 0  # outside the grid is background
    np.testing.assert_array_equal(found[1], inside)


def test_cells_inside_a_frame_have_their_middle_in_it():
    frames = np.asarray([[[1, 0, 4, 2], [0.5, 1.5, 2.5, 9]], [[-3, -3, 0.51, 1.5], [2, 2, 2, 3]]])
    found = numpy(masks.inside_frames(frames.astype("float32"), 3, 5))
    expected = np.zeros((2, 2, 3, 5))
    expected[0, 0, :2, 1:4] = 1
    expected[0, 1, 1:, :2] = 1  # a middle on the first side is inside, on the last it is not
    expected[1, 0, 0, 0] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stride", [4, 8])
def test_middle_pixels_of_a_cell_are_the_four_around_its_centre(stride):
    side = 2 * stride
    middle = stride // 2
    found = []
    for y, x in ((0, 1), (0, 0), (1, 1)):
        bitmap = np.zeros((1, 1, side, side), "float32")
        bitmap[0, 0, stride + middle - 1 + y, middle - 1 + x] = 1  # in cell (1, 0)
        frame = np.asarray([[[0, 0, side, side]]], "float32")
        drawn = [numpy(cell) for cell in masks.middle_pixels(bitmap, frame, 2, 2, stride)]
        assert all(cell.shape == (1, 1, 2, 2) and cell.dtype == bool for cell in drawn)
        assert sum(cell.sum() for cell in drawn) == 1
        found.append([int(cell[0, 0, 1, 0]) for cell in drawn].index(1))
    assert len(set(found)) == 3
    around = np.ones((1, 1, side, side), "float32")
    rows = np.r_[middle - 1 : middle + 1]
    around[0, 0, np.ix_(rows, rows)[0], np.ix_(rows, rows)[1]] = 0
    drawn = masks.middle_pixels(around, frame, 2, 2, stride)
    assert all(numpy(cell)[0, 0].tolist() == [[False, True], [True, True]] for cell in drawn)
