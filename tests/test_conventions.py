import numpy as np
import pytest
from builders import numpy

from pac_keras.conventions import EDGES, PLUS_ONE
from pac_keras.proposals.anchors import anchor_grid

SCALES = tuple(4 * 2 ** (octave / 3) for octave in range(3))
BOTH = {"edges": EDGES, "plus one": PLUS_ONE}
BOX = [[[10, 20, 50, 40]]]


@pytest.fixture(params=BOTH)
def convention(request):
    return BOTH[request.param]


def cropped(convention, boxes, limits, padding, stride=1):
    boxes, limits = np.asarray(boxes, "float32"), np.asarray(limits, "int32")
    return numpy(convention.crop(boxes, limits, padding, stride))


def counted(boxes):
    """Boxes as mmdetection 1.x writes them: they end on their last pixel."""
    return boxes - [0, 0, 1, 1]


def first_cell(convention, stride):
    return numpy(anchor_grid(1, 1, stride, convention.base_anchors(stride, SCALES), 0.5))


def test_anchors_of_the_first_cell_by_hand():
    """Squares of 32, 40.3 and 50.8 px: half their sides, less half a pixel, around 3.5, rounded."""
    theirs = counted(first_cell(PLUS_ONE, 8))
    np.testing.assert_array_equal(theirs[0], [-19, -7, 26, 14])
    squares = [[-12, -12, 19, 19], [-16, -16, 23, 23], [-21, -21, 28, 28]]
    np.testing.assert_array_equal(theirs[3:6], squares)
    ours = first_cell(EDGES, 8)
    np.testing.assert_allclose(ours[0], [-18.627, -7.314, 26.627, 15.314], atol=1e-3)
    np.testing.assert_allclose(ours[3], [-12, -12, 20, 20], atol=1e-5)


@pytest.mark.parametrize("stride", [8, 16, 32, 64, 128])
def test_their_anchors_are_ours_rounded_to_whole_pixels(stride):
    ours, theirs = (first_cell(convention, stride) for convention in (EDGES, PLUS_ONE))
    assert theirs.shape == (9, 4)
    np.testing.assert_array_equal(theirs, np.round(theirs))
    assert np.abs(ours - theirs).max() <= 0.501
    assert np.abs(ours - theirs).max() > 0.2


def test_crops_with_edges_by_hand():
    found = cropped(EDGES, BOX, [[100, 200]], (0.1, 1.0))
    np.testing.assert_allclose(found, [[[6, 18, 54, 42]]], rtol=1e-6)
    in_cells = cropped(EDGES, BOX, [[25, 50]], (0.25, 1.0), 4)  # 2.5, 5, 12.5, 10 cells
    np.testing.assert_allclose(in_cells, [[[0, 3.75, 15, 11.25]]], rtol=1e-6)
    small = cropped(EDGES, [[[20, 20, 24, 28]]], [[100, 100]], (0.25, 1.0), 4)  # by a cell at least
    np.testing.assert_allclose(small, [[[4, 4, 7, 8]]])
    exact = cropped(EDGES, BOX, [[100, 200]], (0.0, 0.0))
    np.testing.assert_array_equal(exact, BOX)


def test_crops_of_counted_pixels_by_hand():
    """Pixels 10..49 and 20..39; the end is cut to a whole pixel, and is the first one outside."""
    found = cropped(PLUS_ONE, BOX, [[100, 200]], (0.1, 1.0))
    np.testing.assert_array_equal(found, [[[6, 18, 53, 41]]])
    # 2.5..12.25 by .25 * 10.75 and 5..9.75 by .25 * 5.75 cells
    in_cells = cropped(PLUS_ONE, BOX, [[25, 50]], (0.25, 1.0), 4)
    np.testing.assert_array_equal(in_cells, [[[0, 3, 14, 11]]])
    small = cropped(PLUS_ONE, [[[20, 20, 24, 28]]], [[100, 100]], (0.25, 1.0), 4)
    np.testing.assert_array_equal(small, [[[4, 4, 6, 7]]])  # last: 5.75 and 6.75


def test_crops_end_at_the_limits_of_their_picture(convention):
    boxes = np.tile(BOX, (2, 1, 1))
    found = cropped(convention, boxes, [[41, 200], [100, 51]], (0.5, 1.0))
    np.testing.assert_array_equal(found[:, 0, :2], [[0, 10], [0, 10]])
    beyond = found[:, 0, 2:]
    last = 0 if convention is EDGES else 1  # they count from the last pixel
    np.testing.assert_array_equal(beyond, [[70 - last, 41], [51, 50 - last]])


def test_a_shift_by_whole_cells_shifts_crops_and_anchors(convention):
    random = np.random.default_rng(0)
    start = random.uniform(60, 90, (1, 20, 2))
    boxes = np.concatenate([start, start + random.uniform(5, 60, (1, 20, 2))], -1).round(2)
    limits, shift = [[100, 100]], np.asarray([4 * 5, 4 * 3] * 2)
    still = cropped(convention, boxes, limits, (0.25, 1.0), 4)
    moved = cropped(convention, boxes + shift, limits, (0.25, 1.0), 4)
    np.testing.assert_allclose(moved, still + shift / 4, atol=1e-4)
    base = convention.base_anchors(16, SCALES)
    grid = numpy(anchor_grid(3, 4, 16, base, 0.5)).reshape(3, 4, 9, 4)
    np.testing.assert_allclose(grid[2, 3], grid[0, 0] + [48, 32, 48, 32], atol=1e-4)


def test_clipping_by_hand():
    boxes = np.float32([[[-5, -3, 50, 60], [45, 10, 50, 20], [-9, 10, -3, 20], [3, 4, 40, 30]]])
    sizes = np.int32([[30, 40]])
    ours = [[0, 0, 40, 30], [40, 10, 40, 20], [0, 10, 0, 20], [3, 4, 40, 30]]
    np.testing.assert_array_equal(numpy(EDGES.clip(boxes, sizes))[0], ours)
    # Corners are clipped to the last pixel: of a box outside the picture a pixel's width is left.
    theirs = [[0, 0, 40, 30], [39, 10, 40, 20], [0, 10, 1, 20], [3, 4, 40, 30]]
    np.testing.assert_array_equal(numpy(PLUS_ONE.clip(boxes, sizes))[0], theirs)


def test_each_picture_clips_to_its_own_size(convention):
    boxes = np.tile(np.float32([[[2, 3, 90, 90]]]), (2, 1, 1))
    found = numpy(convention.clip(boxes, np.int32([[30, 40], [50, 20]])))
    np.testing.assert_array_equal(found[:, 0], [[2, 3, 40, 30], [2, 3, 20, 50]])
