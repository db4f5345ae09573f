import numpy as np
import pytest
from builders import count_weights, ground_truth, matches, numpy, weight_gradients
from keras import ops

from pac_keras.heads.dense import (
    RetinaHead,
    YOLACTHead,
    dense_box_loss,
    flatten_levels,
    focal_loss,
    hard_negative_loss,
    match_anchors,
)
from pac_keras.losses import absolute_error, smooth_l1
from pac_keras.proposals.anchors import base_anchors
from pac_keras.roi.sampling import NO_OBJECT
from pac_keras.structures import CROWD, PADDING, Matches


def pyramid(channels, sizes=((4, 6), (2, 3))):
    """{3, 4: normal [2, h, w, channels]}."""
    random = np.random.default_rng(0)
    return {
        level: random.normal(size=(2, *size, channels)).astype("float32")
        for level, size in enumerate(sizes, start=3)
    }


@pytest.mark.parametrize(
    ("head", "count", "channels"),
    [
        (lambda: RetinaHead(80, 9, 64, 256), 10_154_292, (720, 36, 576)),
        (lambda: YOLACTHead(80, 3, 64, 256), 1_620_415, (243, 12, 192)),
    ],
)
def test_numbers_of_weights_at_the_papers_size(head, count, channels):
    head = head()
    maps = head(pyramid(256))
    assert count_weights(head) == count  # shared by all levels
    for level, size in ((3, (4, 6)), (4, (2, 3))):
        assert [tuple(x.shape) for x in maps[level]] == [(2, *size, c) for c in channels]


def test_classes_of_the_retina_head_begin_at_a_hundredth():
    head = RetinaHead(5, 2, 4, 64, num_convs=2)
    maps = head(pyramid(64))
    np.testing.assert_allclose(numpy(head.classes.bias), -np.log(99), rtol=1e-6)
    assert not numpy(head.deltas.bias).any() and not numpy(head.vectors.bias).any()
    convs = [conv.convolution for tower in head.towers for conv in tower]
    assert len(convs) == 6
    for layer in (*convs, head.classes, head.deltas, head.vectors):
        assert numpy(layer.kernel).std() == pytest.approx(0.01, rel=0.1)
    probability = 1 / (1 + np.exp(-numpy(maps[3][0])))
    assert probability.mean() == pytest.approx(0.01, rel=0.3)
    yolact = YOLACTHead(5, 2, 4, 8)
    yolact(pyramid(8))
    assert not numpy(yolact.classes.bias).any()  # a softmax has its background


@pytest.mark.parametrize(
    "head",
    [lambda: RetinaHead(3, 2, 4, 8, num_convs=2, norm_groups=2), lambda: YOLACTHead(3, 2, 4, 8)],
)
def test_every_weight_gets_a_gradient_and_levels_do_not_mix(head):
    head, maps = head(), pyramid(8)
    together = head(maps)
    for ours, alone in zip(together[4], head({4: maps[4]})[4], strict=True):
        np.testing.assert_allclose(numpy(ours), numpy(alone), atol=1e-6)
    total = lambda out: sum(ops.sum(x * x) for fields in out.values() for x in fields)  # noqa: E731
    gradients = weight_gradients(head, total, maps)
    assert all(np.abs(x).max() > 0 for x in gradients.values())


def test_order_of_a_level_is_row_column_anchor_class():
    anchors_of = lambda stride: base_anchors(stride, scales=(1, 2), ratios=(1.0,))  # noqa: E731

    def numbered(level, size, per_anchor):
        shape = (2, *size, 2, per_anchor)
        picture, y, x, anchor, i = np.indices(shape)
        value = level + 10 * i + 100 * anchor + 1000 * x + 10_000 * y + 100_000 * picture
        return value.reshape(2, *size, -1).astype("float32")

    maps = {
        level: [numbered(level, size, k) for k in (3, 4, 5)]
        for level, size in ((4, (2, 3)), (3, (4, 6)))
    }
    anchors, *fields = flatten_levels(maps, anchors_of)
    for i, (level, size) in enumerate(((3, (4, 6)), (4, (2, 3)))):
        stride, rows = 2**level, size[0] * size[1] * 2
        for field, k in zip(fields, (3, 4, 5), strict=True):
            values = numpy(field[i])
            assert values.shape == (2, rows, k)
            np.testing.assert_array_equal(values[:, :, 0] % 10, np.full((2, rows), level))
            np.testing.assert_array_equal(values[1, :, k - 1] - values[0, :, 0], 1e5 + 10 * (k - 1))
            y, rest = np.divmod(values[0, :, 0] - level, 10_000)
            x, anchor = np.divmod(rest, 1000)
            half = 0.5 * stride * (1 + anchor / 100)
            x, y = (x + 0.5) * stride, (y + 0.5) * stride  # the middle of the cell
            expected = np.stack([x - half, y - half, x + half, y + half], axis=-1)
            np.testing.assert_array_equal(numpy(anchors[i]), expected)


OBJECTS = [[[0, 0, 10, 10], [20, 20, 40, 40]]]
LABELS = [[3, 5]]
ANCHORS = np.float32(
    [
        [0, 0, 10, 8],  # .8 with object 0
        [0, 0, 10, 5],  # exactly .5
        [0, 0, 10, 4.9],
        [0, 0, 10, 4.1],
        [0, 0, 10, 3.9],
        [20, 20, 40, 24],  # .2 with object 1, its best
        [20, 30, 40, 34],  # too
        [50, 50, 60, 60],  # nothing
    ]
)
SIZES = np.int32([[40, 50]])  # a canvas of 64 x 64


def matched(anchors, truth, sizes=SIZES, **options):
    """`match_anchors` as NumPy Matches `[B, N]`."""
    found = match_anchors(np.asarray(anchors, "float32"), sizes, truth, **options)
    return Matches(*(numpy(x) for x in found))


def test_anchors_are_matched_by_hand():
    found = matched(ANCHORS, ground_truth(OBJECTS, LABELS))
    labels = [3, 3, PADDING, PADDING, NO_OBJECT, 5, 5, NO_OBJECT]
    np.testing.assert_array_equal(found.labels, [labels])
    np.testing.assert_array_equal(found.objects, [[0, 0, 0, 0, 0, 1, 1, 0]])
    np.testing.assert_array_equal(found.positive, [[1, 1, 0, 0, 0, 1, 1, 0]])
    once = matched(ANCHORS, ground_truth(OBJECTS, LABELS), ties=False)
    np.testing.assert_array_equal(once.labels, [[*labels[:6], NO_OBJECT, NO_OBJECT]])


def test_every_object_has_an_anchor_unless_none_touches_it():
    random = np.random.default_rng(1)
    start = random.uniform(0, 120, (2, 8, 2))
    boxes = np.concatenate([start, start + random.uniform(1, 8, (2, 8, 2))], axis=-1)
    boxes[1, 7] = [300, 300, 310, 310]
    labels = np.tile(np.arange(8), (2, 1))
    corner = np.stack(np.meshgrid(np.arange(0, 128, 32), np.arange(0, 128, 32)), -1).reshape(-1, 2)
    anchors = np.concatenate([corner, corner + 40], axis=-1)  # they overlap: IoU at most .04
    found = matched(anchors, ground_truth(boxes, labels), np.int32([[128, 128]] * 2), ties=False)
    assert found.positive.any(axis=1).all()
    assert 7 in found.labels[0] and 7 not in found.labels[1]
    for picture in range(2):
        mine = found.labels[picture][found.positive[picture] > 0]
        assert len(mine) == len(set(mine))


def test_crowds_are_ignored_by_what_is_visible_of_an_anchor():
    """Of the last anchor 40 % lie in the crowd, but all of what is inside the picture."""
    truth = ground_truth([[*OBJECTS[0], [40, 0, 50, 40]]], [[*LABELS[0], CROWD]])
    anchors = [ANCHORS[0], [42, 12, 48, 18], [30, 0, 44, 10], [40, 10, 65, 20]]
    found = matched(anchors, truth)
    np.testing.assert_array_equal(found.labels, [[3, PADDING, NO_OBJECT, PADDING]])


def test_anchors_in_the_padding_count_up_to_a_multiple_of_32():
    truth = ground_truth([[[60, 10, 70, 20]]], [[2]])
    anchors = [[53, 53, 73, 73], [56, 10, 71, 20], [60, 10, 70, 20], [10, 60, 20, 70]]
    found = matched(anchors, truth)
    np.testing.assert_array_equal(found.labels, [[NO_OBJECT, 2, PADDING, PADDING]])
    wider = matched(anchors, truth, np.int32([[65, 65]]))
    np.testing.assert_array_equal(wider.labels, [[NO_OBJECT, 2, 2, NO_OBJECT]])


POSITIVE = matches(
    [[1, 0, 0, 0, 0], [0] * 5],
    [[1, 0, NO_OBJECT, NO_OBJECT, PADDING], [NO_OBJECT, PADDING, NO_OBJECT, NO_OBJECT, NO_OBJECT]],
    [[1, 1, 0, 0, 0], [0] * 5],
)


def test_focal_loss_by_hand():
    """A picture counts its positives, two, the other, without any, counts one."""
    logits = np.random.default_rng(2).normal(size=(2, 5, 3)).astype("float32")
    probability = 1 / (1 + np.exp(-logits.astype("float64")))
    error = -0.75 * probability**2 * np.log(1 - probability)
    for row, label in ((0, 1), (1, 0)):
        p = probability[0, row, label]
        error[0, row, label] = -0.25 * (1 - p) ** 2 * np.log(p)
    error[0, 4] = error[1, 1] = 0
    total, count = focal_loss(logits, POSITIVE)
    assert float(total) == pytest.approx(error.sum(), rel=1e-5)
    assert float(count) == 3


def test_hard_negative_loss_by_hand():
    """One positive anchor, three of four background ones; a picture without any adds nothing."""
    background = np.float64([0.9, 0.3, 0.6, 0.2, 0.4, 0.05])
    probability = np.stack([(1 - background) / 4, 3 * (1 - background) / 4, background], axis=-1)
    logits = np.log(np.tile(probability, (2, 1, 1))).astype("float32")
    labels = [NO_OBJECT, 1, NO_OBJECT, NO_OBJECT, NO_OBJECT, PADDING]
    found = matches([[0] * 6] * 2, [labels, [NO_OBJECT] * 6], [[0, 1, 0, 0, 0, 0], [0] * 6])
    total, count = hard_negative_loss(logits, found)
    expected = -np.log([0.75 * 0.7, 0.6, 0.2, 0.4]).sum()
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(count) == 1
    two = found._replace(positive=found.positive * [[0], [1]])
    nothing = hard_negative_loss(logits, two)
    assert tuple(map(float, nothing)) == (0, 0)


def test_box_loss_by_hand():
    """Anchors of 10 x 10; object 1 is moved by (2, 1) and twice as high, object 0 fits."""
    anchors = np.float32([[0, 0, 10, 10], [20, 20, 30, 30], [5, 5, 15, 15]])
    truth = ground_truth([[[20, 20, 30, 30], [2, -4, 12, 16]]] * 2, [[0, 1]] * 2)
    found = matches([[1, 0, 0], [0, 0, 0]], [[1, 0, NO_OBJECT]] * 2, [[1, 1, 0], [0, 0, 0]])
    deltas = np.zeros((2, 3, 4), "float32")
    deltas[0, 1] = [0.5, 0, 0, -0.25]
    deltas[:, 2] = 100  # no positive anchor
    scale = (0.1, 0.1, 0.2, 0.2)
    total, count = dense_box_loss(deltas, anchors, found, truth, absolute_error, scale)
    assert float(total) == pytest.approx(2 + 1 + np.log(2) / 0.2 + 0.75, rel=1e-5)
    assert float(count) == 3
    plain, _ = dense_box_loss(deltas, anchors, found, truth, absolute_error, (1, 1, 1, 1))
    assert float(plain) == pytest.approx(0.2 + 0.1 + np.log(2) + 0.75, rel=1e-5)
    deltas[0, 0] = [2, 1, 0, np.log(2) / 0.2]
    smooth, _ = dense_box_loss(deltas, anchors, found, truth, smooth_l1, scale)
    assert float(smooth) == pytest.approx(0.5 * (0.5**2 + 0.25**2), rel=1e-4)


def test_rows_that_are_padding_change_nothing():
    random = np.random.default_rng(3)
    logits = random.normal(size=(1, len(ANCHORS), 7)).astype("float32")
    deltas = random.normal(size=(1, len(ANCHORS), 4)).astype("float32")

    def everything(extra):
        truth = ground_truth(OBJECTS, LABELS, extra=extra)
        found = match_anchors(ANCHORS, SIZES, truth)
        box = dense_box_loss(deltas, ANCHORS, found, truth, absolute_error, (1, 1, 1, 1))
        losses = [*focal_loss(logits, found), *hard_negative_loss(logits, found), *box]
        return [*(numpy(x) for x in found), [float(x) for x in losses]]

    for ours, other in zip(everything(0), everything(3), strict=True):
        np.testing.assert_array_equal(ours, other)


def test_pictures_without_objects_have_finite_losses():
    truth = ground_truth(np.zeros((1, 2, 4)), [[PADDING, PADDING]])
    found = match_anchors(ANCHORS, SIZES, truth)
    np.testing.assert_array_equal(numpy(found.labels), [[NO_OBJECT] * len(ANCHORS)])
    logits = np.zeros((1, len(ANCHORS), 2), "float32")
    total, count = focal_loss(logits, found)
    expected = 2 * len(ANCHORS) * 0.75 * 0.25 * np.log(2)
    assert (float(total), float(count)) == (pytest.approx(expected, rel=1e-5), 1)
    deltas = np.ones((1, len(ANCHORS), 4), "float32")
    box = dense_box_loss(deltas, ANCHORS, found, truth, absolute_error, (1, 1, 1, 1))
    assert tuple(map(float, box)) == (0, 1)
