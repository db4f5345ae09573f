import numpy as np
import pytest
from builders import count_weights, ground_truth, matches, numpy, rois
from keras import ops

from pac_keras.heads import refine_mask
from pac_keras.heads.refine_mask import (
    RefineMaskHead,
    enlarge,
    merge_scales,
    scale_losses,
)
from pac_keras.heads.semantic import ObjectSemanticHead, object_loss, object_target
from pac_keras.layers import resize_bilinear
from pac_keras.masks import boundary
from pac_keras.structures import CROWD

SIDES = (14, 28, 56, 112)
BOXES = np.float32([[[8, 8, 40, 56], [0, 0, 64, 64], [30, 5, 61, 33]]])
LABELS = np.int32([[1, 0, 2]])


def scales(seed=0, sides=SIDES):
    """Smooth random logits at all scales, three regions."""
    random = np.random.default_rng(seed)
    return [
        numpy(resize_bilinear(random.normal(size=(3, 7, 7, 1)).astype("float32"), (s, s)))[..., 0]
        for s in sides
    ]


def small_head(channels=16, **arguments):
    """(head, its logits and the semantic map for a picture of 64 pixels)."""
    arguments = {"num_stages": 2, "simple": False, "semantic": True} | arguments
    head = RefineMaskHead(3, channels, **arguments)
    semantic = ObjectSemanticHead(channels, supervised=not arguments["simple"])
    p2 = np.random.default_rng(5).normal(size=(1, 16, 16, channels)).astype("float32")
    maps = semantic(p2) if arguments["semantic"] else None
    features = np.random.default_rng(6).normal(size=(3, 14, 14, channels)).astype("float32")
    pool = lambda boxes, size: ops.convert_to_tensor(features)  # noqa: E731
    return head, head.predict(pool, maps, BOXES, ops.convert_to_tensor(LABELS), 2), maps


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "head_count", "map_count"),
    [({}, 6_407_003 - 2_360_577, 2_360_577), ({"simple": True}, 6_317_678 - 2_360_320, 2_360_320)],
    ids=["original", "simple"],
)
def test_number_of_weights(arguments, head_count, map_count):
    head = RefineMaskHead(80, **arguments)
    semantic = ObjectSemanticHead(256, supervised=not arguments)
    maps = semantic(np.zeros((1, 8, 8, 256), "float32"))
    boxes, labels = np.float32([[[0, 0, 32, 32]]]), np.int32([[3]])
    pool = lambda boxes, size: np.zeros((1, size, size, 256), "float32")  # noqa: E731
    found = head.predict(pool, maps, boxes, ops.convert_to_tensor(labels), 2)
    assert [logits.shape for logits in found] == [(1, side, side) for side in SIDES]
    assert (count_weights(head), count_weights(semantic)) == (head_count, map_count)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_each_stage_doubles_the_side(stages):
    _, found, _ = small_head(channels=64, num_stages=stages)
    assert [logits.shape[1:] for logits in found] == [(14 * 2**i,) * 2 for i in range(stages + 1)]


def test_only_the_regions_class_is_seen():
    """Other classes' logits change nothing, neither here nor as guides further on."""
    head, found, maps = small_head()
    before = [numpy(x) for x in found]
    for layer in (*(stage.logits for stage in head.stages), head.logits):
        layer.bias.assign(numpy(layer.bias) + np.float32([0, 0, 5]))
    features = np.random.default_rng(6).normal(size=(3, 14, 14, 16)).astype("float32")
    pool = lambda boxes, size: ops.convert_to_tensor(features)  # noqa: E731
    after = [numpy(x) for x in head.predict(pool, maps, BOXES, ops.convert_to_tensor(LABELS), 2)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other[:2], one[:2], atol=1e-5)
        assert np.abs(other[2] - one[2]).max() > 0.1


@pytest.mark.parametrize("arguments", [{}, {"simple": True}, {"semantic": False}])
def test_the_semantic_map_is_used_where_there_is_one(arguments):
    head, found, maps = small_head(**arguments)
    assert (maps is None) == ("semantic" in arguments)
    if maps is not None:
        features = np.random.default_rng(6).normal(size=(3, 14, 14, 16)).astype("float32")
        pool = lambda boxes, size: ops.convert_to_tensor(features)  # noqa: E731
        labels = ops.convert_to_tensor(LABELS)
        nothing = tuple(None if x is None else ops.zeros_like(x) for x in maps)
        other = head.predict(pool, nothing, BOXES, labels, 2)
        assert np.abs(numpy(other[-1]) - numpy(found[-1])).max() > 1e-4


@pytest.mark.parametrize(
    ("fusion", "kernels"),
    [("sfm", [3, 3, 3, 1]), ("parallel", [3, 3, 3, 1]), ("conv3x3", [3]), ("conv1x1", [])],
)
def test_fusions(fusion, kernels):
    head, found, _ = small_head(fusion=fusion)
    weights = [v for layer in head.stages[0].fusion for v in layer.weights if v.name == "kernel"]
    assert [kernel.shape[0] for kernel in weights] == kernels
    assert np.all(np.isfinite(numpy(found[-1])))


# ---- merging -------------------------------------------------------------------------------------


def test_merging_changes_the_border_alone():
    """Outside the border of the coarser mask the finer one has no say; inside it alone has."""
    first = scales()
    second = [*first[:3], first[3] + 1.0]
    merged, changed = (numpy(merge_scales(x)) for x in (first, second))
    fine = numpy(merge_scales(first[:3]))  # at 56 cells
    border = numpy(enlarge(boundary((fine >= 0).astype("float32"), 1))) >= 0.5
    assert 0.02 < border.mean() < 0.5
    np.testing.assert_array_equal(merged[~border], changed[~border])
    np.testing.assert_array_equal(merged[~border], numpy(enlarge(fine))[~border])
    np.testing.assert_array_equal(merged[border], first[3][border])
    np.testing.assert_array_equal(changed[border], second[3][border])


def test_merging_leaves_the_first_scale_out_and_ends_with_the_last():
    first, second = scales()[:2]
    np.testing.assert_array_equal(numpy(merge_scales([first + 9, second])), second)


def test_a_merged_step_has_a_sharper_edge():
    """28 cells see an edge at a cell's middle as a ramp; 56 cells place it."""

    def step(side):
        column = (np.arange(side) + 0.5) / side
        return np.broadcast_to(np.where(column < 0.375, 5.0, -5.0), (1, side, side)).astype("f4")

    merged = numpy(merge_scales([step(14), step(28), step(56)]))
    assert merged.shape == (1, 56, 56)
    np.testing.assert_array_equal(merged >= 0, step(56) >= 0)


# ---- losses --------------------------------------------------------------------------------------


def hard(side, column):
    """Target `[1, 1, side, side]`: 1 left of `column` (share of the side)."""
    return np.broadcast_to((np.arange(side) + 0.5) / side < column, (1, 1, side, side)).astype("f4")


ONE = matches([[0]], [[0]], [[1]])


def test_scales_up_to_28_count_all_pixels():
    logits = [np.zeros((1, side, side), "float32") for side in SIDES]
    targets = [hard(side, 0.5) for side in SIDES]
    losses = scale_losses(logits, targets, ONE, boundary_width=2)
    for (total, count), side in zip(losses[:2], SIDES, strict=False):
        assert float(count) == side**2
        assert float(total) == pytest.approx(side**2 * np.log(2), rel=1e-5)


def test_finer_scales_count_around_both_borders():
    """Predicted edge at column 7 of 28, true edge at 21: two bands, and the grid's own edge."""
    column = (np.arange(28) < 7).astype("float32") * 2 - 1
    coarse = np.broadcast_to(column, (1, 28, 28)).astype("float32")
    logits = [np.zeros((1, 14, 14), "f4"), coarse, np.zeros((1, 56, 56), "f4")]
    targets = [hard(14, 0.75), hard(28, 0.75), hard(56, 0.75)]
    total, count = scale_losses(logits, targets, ONE, boundary_width=2)[2]
    bands = np.maximum(
        numpy(boundary((coarse >= 0).astype("float32"), 2)), numpy(boundary(targets[1][0], 2))
    )
    region = numpy(enlarge(bands)) >= 0.5
    middle = region[0, 28]
    # Two columns on each side of both edges, and two along the left edge of the grid.
    np.testing.assert_array_equal(np.flatnonzero(bands[0, 14]), [0, 1, 5, 6, 7, 8, 19, 20, 21, 22])
    assert middle[10:18].all() and middle[38:46].all() and not middle[20:36].any()
    assert float(count) == region.sum() < 0.6 * 56**2
    assert float(total) == pytest.approx(region.sum() * np.log(2), rel=1e-5)
    whole, pixels = scale_losses(logits, targets, ONE)[2]
    assert float(pixels) == 56**2 and float(whole) == pytest.approx(56**2 * np.log(2), rel=1e-5)


def test_rows_without_object_do_not_count():
    logits, targets = scales(), [np.ones((1, 3, side, side), "float32") for side in SIDES]
    some = matches([[0, 0, 0]], [[0, 3, 3]], [[1, 0, 0]])
    found = scale_losses(logits, targets, some, 2)
    alone = scale_losses(
        [x[:1] for x in logits], [x[:, :1] for x in targets], matches([[0]], [[0]], [[1]]), 2
    )
    np.testing.assert_allclose(found, alone, rtol=1e-6)
    nothing = scale_losses(logits, targets, matches([[0] * 3], [[3] * 3], [[0] * 3]), 2)
    assert not np.any(nothing)


def test_targets_of_all_scales_are_the_object_in_its_region():
    mask = np.zeros((1, 1, 64, 64), "uint8")
    mask[..., :40] = 1
    truth = ground_truth([[[0, 0, 40, 64]]], [[0]], mask, frames=[[[0, 0, 64, 64]]])
    regions = rois([[[20, 20, 60, 60]]])
    found = refine_mask.scale_targets(
        [np.zeros((1, side, side)) for side in SIDES], regions, ONE, truth, np.int32([[64, 64]])
    )
    for target, side in zip(found, SIDES, strict=True):
        expected = np.zeros((1, 1, side, side))
        expected[..., : side // 2] = 1
        np.testing.assert_array_equal(numpy(target), expected)


# ---- the semantic map ----------------------------------------------------------------------------


def test_object_cells_by_hand():
    """Cells of 4 pixels: one object over 2 x 3 of them, one that covers half of a cell's middle."""
    truth = ground_truth(
        [[[4, 8, 16, 16], [24, 0, 26, 4]]], [[0, 1]], masks=np.ones((1, 2, 8, 8), "uint8"), extra=2
    )
    target, counted = object_target(truth, np.int32([[24, 32]]), 6, 8)
    expected = np.zeros((6, 8))
    expected[2:4, 1:4] = 1
    expected[0, 6] = 1  # its right half is empty, but two of the four middle pixels are covered
    np.testing.assert_array_equal(numpy(target)[0], expected)
    assert np.all(numpy(counted) == 1)


def test_objects_add_up_and_do_not_cover_each_other():
    """Two objects, each a quarter of the same cell: together half of it."""
    truth = ground_truth([[[0, 0, 2, 2], [2, 2, 4, 4]]], [[0, 1]], masks=np.ones((1, 2, 4, 4)))
    both, _ = object_target(truth, np.int32([[8, 8]]), 2, 2)
    same = truth._replace(mask_frames=np.float32([[[0, 0, 2, 2]] * 2]))
    one, _ = object_target(same, np.int32([[8, 8]]), 2, 2)
    assert numpy(both)[0, 0, 0] == 1 and numpy(one)[0, 0, 0] == 0


def test_padding_and_crowds_do_not_count():
    truth = ground_truth([[[0, 0, 8, 8], [4, 0, 16, 8]]], [[0, CROWD]])
    logits = np.full((1, 4, 8, 1), 3.0, "float32")
    target, counted = (numpy(x)[0] for x in object_target(truth, np.int32([[10, 29]]), 4, 8))
    expected = np.ones((4, 8))
    expected[3:] = 0  # the picture ends at y = 10, in row 2, and in column 7
    expected[:2, 2:4] = 0  # the crowd, where no object is
    np.testing.assert_array_equal(counted, expected)
    np.testing.assert_array_equal(np.argwhere(target), [[0, 0], [0, 1], [1, 0], [1, 1]])
    total, count = object_loss(logits, truth, np.int32([[10, 29]]))
    assert float(count) == expected.sum()
    each = np.where(target, np.log1p(np.exp(-3.0)), np.log1p(np.exp(3.0)))
    assert float(total) == pytest.approx((each * expected).sum(), rel=1e-5)
