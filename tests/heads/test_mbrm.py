import functools

import keras
import numpy as np
import pytest
from builders import numpy, weight_gradients
from keras import ops

from pac_keras.boxes import box_iou
from pac_keras.conventions import EDGES
from pac_keras.heads.mbrm import (
    MBRM,
    PUBLISHED,
    PUBLISHED_BIAS,
    boundary_loss,
    enclosing_boxes,
    full_logits,
    likeliest_boxes,
    mask_profiles,
)

RANDOM_KERNEL = np.random.default_rng(0).normal(size=9).astype("float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def layer(kernel=None, bias=0.0, gamma=0.05):
    made = MBRM(gamma)
    if kernel is not None:
        made.kernel.assign(np.asarray(kernel, "float32"))
    made.bias.assign([bias])
    return made


def profiles(count=3, width=40, height=30):
    """Columns `[2, D, W]` and rows `[2, D, H]`, random in [0, 1]."""
    random = np.random.default_rng(1)
    return [random.uniform(size=(2, count, n)).astype("float32") for n in (width, height)]


BOXES = np.tile(np.float32([[[5.3, 4, 31, 22.6], [8, 9, 12, 15], [0, 0, 0, 0]]]), (2, 1, 1))
SIZES = np.int32([[30, 40], [26, 35]])


def by_hand(profile, kernel, bias, edge, deviation, length):
    """Equations 4 and 5 for one profile."""
    likelihood = sigmoid(np.correlate(np.pad(profile, 4), kernel, "valid") + bias)
    position = np.arange(len(profile))
    prior = np.exp(-0.5 * ((position - edge) / deviation) ** 2)
    posterior = likelihood * np.where((prior > 0.0044) & (position < length), prior, 0)
    return posterior / posterior.sum()


def test_posteriors_by_hand():
    columns, rows = profiles()
    found = layer(RANDOM_KERNEL, -0.3)(columns, rows, BOXES, SIZES)
    mirrored = RANDOM_KERNEL[::-1]
    for picture, (height, width) in enumerate(SIZES):
        for i, (x0, y0, x1, y1) in enumerate(BOXES[picture]):
            x, y = max(0.05 * (x1 - 1 - x0), 1), max(0.05 * (y1 - 1 - y0), 1)
            expected = [
                by_hand(columns[picture, i], RANDOM_KERNEL, -0.3, x0, x, width),
                by_hand(rows[picture, i], RANDOM_KERNEL, -0.3, y0, y, height),
                by_hand(columns[picture, i], mirrored, -0.3, x1 - 1, x, width),
                by_hand(rows[picture, i], mirrored, -0.3, y1 - 1, y, height),
            ]
            for posterior, ours in zip(found, expected, strict=True):
                np.testing.assert_allclose(numpy(posterior)[picture, i], ours, atol=1e-5)


def test_prior_ends_at_a_three_hundredth_and_is_at_least_a_pixel_wide():
    """Without a kernel the prior alone is left; .0044 is reached at 3.294 deviations."""
    columns, rows = profiles(1, 120, 90)
    boxes = np.tile(np.float32([[[40, 30, 81, 36]]]), (2, 1, 1))
    sizes = np.int32([[90, 120]] * 2)
    left, top, right, bottom = map(numpy, layer(np.zeros(9))(columns, rows, boxes, sizes))
    for posterior, edge, reach in ((left, 40, 6), (right, 80, 6), (top, 30, 3), (bottom, 35, 3)):
        (reached,) = posterior[0, 0].nonzero()
        assert (reached[0], reached[-1], len(reached)) == (
            edge - reach,
            edge + reach,
            2 * reach + 1,
        )
        assert posterior[0, 0].argmax() == edge
    assert left[0, 0, 42] / left[0, 0, 40] == pytest.approx(np.exp(-0.5), rel=1e-4)  # deviation 2
    assert top[0, 0, 31] / top[0, 0, 30] == pytest.approx(np.exp(-0.5), rel=1e-4)  # and 1
    wide = numpy(layer(np.zeros(9), gamma=0.1)(columns, rows, boxes, sizes)[0])
    assert len(wide[0, 0].nonzero()[0]) == 27  # deviation 4


def test_a_mask_s_first_and_last_pixel_by_hand():
    columns, rows = np.zeros((1, 2, 40), "float32"), np.zeros((1, 2, 30), "float32")
    columns[:, :, 12:24], rows[:, :, 7:19] = 1, 1
    boxes = np.float32([[[13, 8, 23, 18], [10.9, 5.9, 25.1, 20.1]]])

    def refined(refine):
        return numpy(likeliest_boxes(refine(columns, rows, boxes, SIZES[:1]), boxes))[0].tolist()

    # The start, an edge detector, is weaker than the prior until it is trained. Where a mask
    # begins, it finds two pixels equally likely; the one that is nearer to the box wins.
    assert refined(layer()) == [[13, 8, 23, 18], [11, 6, 25, 20]]
    steep = layer(10 * numpy(layer().kernel))
    assert refined(steep) == [[12, 7, 24, 19], [11, 6, 25, 20]]
    published = layer(PUBLISHED, PUBLISHED_BIAS)
    assert refined(published) == [[12, 7, 24, 19], [11, 6, 25, 20]]


def test_a_flipped_picture_has_flipped_answers():
    columns, rows = profiles()
    sizes = np.int32([[30, 40]] * 2)
    refine = layer(RANDOM_KERNEL, 0.2)
    left, top, right, bottom = map(numpy, refine(columns, rows, BOXES, sizes))
    x0, y0, x1, y1 = np.split(BOXES, 4, axis=-1)
    across, down = (40 - x1, y0, 40 - x0, y1), (x0, 30 - y1, x1, 30 - y0)
    cases = (
        (across, columns[..., ::-1], rows, (right[..., ::-1], top, left[..., ::-1], bottom)),
        (down, columns, rows[..., ::-1], (left, bottom[..., ::-1], right, top[..., ::-1])),
    )
    for boxes, columns, rows, expected in cases:
        found = refine(columns, rows, np.concatenate(boxes, axis=-1), sizes)
        for ours, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(numpy(ours)[:, :2], other[:, :2], atol=1e-6)


def test_posteriors_sum_to_one_and_padding_of_the_picture_is_never_chosen():
    columns, rows = profiles()
    columns[1, :, 35:], rows[1, :, 26:] = [0, 1, 0, 1, 0], [0, 1, 0, 1]  # the strongest edges
    boxes = np.tile(np.float32([[[2, 2, 35, 26], [34, 25, 35, 26], [0, 0, 0, 0]]]), (2, 1, 1))
    found = [numpy(x) for x in layer(8 * RANDOM_KERNEL)(columns, rows, boxes, SIZES)]
    for posterior in found:
        np.testing.assert_allclose(posterior.sum(axis=-1), 1, rtol=1e-5)
        assert posterior.min() >= 0
    for posterior, length in zip(found, (35, 26, 35, 26), strict=True):
        assert not posterior[1, :, length:].any()
        assert posterior[0, :, length:].any()


def full_masks(logits, frames, *size):
    """Probabilities `[D, H, W]` of logits `[D, h, w]`."""
    return ops.sigmoid(full_logits(logits[None], frames[None], *size))[0]


def test_full_masks_are_enlarged_between_middles_and_cut_to_their_frames():
    logits = np.tile(np.arange(6, dtype="float32") - 2, (2, 5, 1))  # a ramp, of 4 px a step
    frames = np.float32([[2, 3, 20, 17], [-5, 10.4, 90, 12.6]])
    found = numpy(full_masks(logits, frames, 20, 24))
    ramp = sigmoid(np.clip((np.arange(24) + 0.5) / 4 - 0.5, 0, 5) - 2)
    expected = np.zeros((2, 20, 24))
    expected[0, 3:17, 2:20] = ramp[2:20]
    expected[1, 10:13] = ramp  # middles from 10.5 to 12.5
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_profiles_are_the_largest_values_of_columns_and_rows():
    random = np.random.default_rng(2)
    logits = random.normal(size=(2, 23, 5, 6)).astype("float32")  # more than are drawn at once
    start = random.uniform(-3, 12, (2, 23, 2))
    frames = np.concatenate([start, start + random.uniform(0, 14, (2, 23, 2))], -1).astype("f4")
    frames[1, 2] = 0
    columns, rows = (numpy(x) for x in mask_profiles(logits, frames, 20, 24))
    assert columns.shape == (2, 23, 24) and rows.shape == (2, 23, 20)
    for picture in range(2):
        masks = numpy(full_masks(logits[picture], frames[picture], 20, 24))
        np.testing.assert_allclose(columns[picture], masks.max(axis=1), atol=1e-6)
        np.testing.assert_allclose(rows[picture], masks.max(axis=2), atol=1e-6)
    assert not columns[1, 2].any() and not rows[1, 2].any()


def peaks(*positions, length=20):
    """Posteriors `[1, D, length]` of boxes with peaks at (left, top, right, bottom)."""
    rows = np.eye(length, dtype="float32")[np.asarray(positions)]  # [D, 4, length]
    return [0.1 + rows[None, :, side] for side in range(4)]


def test_likeliest_boxes_keep_padding_and_refuse_to_be_empty():
    boxes = np.float32([[[2, 3, 9, 8], [2, 3, 9, 8], [2, 3, 9, 8], [2, 3, 9, 8], [0, 0, 0, 0]]])
    found = peaks([3, 2, 10, 7], [5, 4, 5, 4], [6, 4, 5, 9], [4, 6, 9, 5], [1, 2, 3, 4])
    refined = numpy(likeliest_boxes(found, boxes))[0]
    expected = [[3, 2, 11, 8], [5, 4, 6, 5], [2, 3, 9, 8], [2, 3, 9, 8], [0, 0, 0, 0]]
    np.testing.assert_array_equal(refined, expected)


def test_enclosing_boxes_by_hand():
    columns, rows = np.zeros((1, 3, 8), "float32"), np.zeros((1, 3, 6), "float32")
    columns[0, 0, [2, 4, 5]], rows[0, 0, 1:5] = [0.4, 0.9, 0.3], [0.39, 0.5, 0.2, 0.6]
    columns[0, 1, 3], rows[0, 1, 3] = 0.39, 0.39
    columns[0, 2], rows[0, 2] = 1, 1
    boxes = np.float32([[[1, 1, 3, 3], [2, 2, 5, 5], [0, 0, 1, 1]]])
    found = numpy(enclosing_boxes(columns, rows, boxes, np.float32(0.4)))
    np.testing.assert_array_equal(found, [[[2, 2, 5, 5], [2, 2, 5, 5], [0, 0, 8, 6]]])


def test_boundary_loss_by_hand():
    """Edges are rounded: 2.4 -> 2, 3.6 -> 4, 7.6 -> the pixel before 8, 9 -> the one before 9."""
    posteriors = [np.full((1, 3, 10), 0.01, "float32") for _ in range(4)]
    for posterior, edge, value in zip(posteriors, (2, 4, 7, 8), (0.5, 0.25, 0.2, 0), strict=True):
        posterior[0, 0, edge] = value
    boxes = np.float32([[[2.4, 3.6, 7.6, 9], [0, 0, 0, 0], [0, 0, 12, 1]]])
    total, count = boundary_loss(posteriors, boxes, np.float32([[1, 0, 0]]))
    assert float(total) == pytest.approx(-np.log(0.5 * 0.25 * 0.2), rel=1e-5)
    assert float(count) == 3  # the prior rules the last edge out
    total, count = boundary_loss(posteriors, boxes, np.float32([[0, 0, 1]]))  # inside the canvas
    assert (float(total), float(count)) == (pytest.approx(-4 * np.log(0.01), rel=1e-5), 4)
    assert tuple(map(float, boundary_loss(posteriors, boxes, np.zeros((1, 3), "f4")))) == (0, 0)


def test_both_weights_get_a_finite_gradient():
    truth = BOXES + np.float32([1, -1, -2, 1])
    truth[:, 1] += 20  # out of reach
    positive = np.float32([[1, 1, 0]] * 2)
    loss = lambda posteriors: boundary_loss(posteriors, truth, positive)[0]  # noqa: E731
    gradients = weight_gradients(layer(), loss, *profiles(), BOXES, SIZES)
    assert sorted(x.shape for x in gradients.values()) == [(1,), (9,)]
    for slope in gradients.values():
        assert np.isfinite(slope).all() and np.abs(slope).min() > 0


SIDE, COUNT = 256, 60
PICTURE = np.int32([[SIDE, SIDE]])
CELLS = np.stack(np.meshgrid(*[4 * np.arange(SIDE // 4) + 2.0] * 2), axis=-1)  # their middles, x, y


def outside(box):
    """How far a cell's middle lies outside of a box; inside, minus the distance to its edge."""
    return np.maximum(box[:2] - CELLS, CELLS - box[2:]).max(axis=-1)


def inside_ellipse(box):
    """About the distance of a cell's middle to the ellipse in a box, negative outside."""
    radii = (box[2:] - box[:2]) / 2
    place = (CELLS - (box[:2] + box[2:]) / 2 + 1e-6) / radii
    radius = np.hypot(*np.moveaxis(place, -1, 0))
    return radius * (1 - radius) / np.hypot(*np.moveaxis(place / radii, -1, 0))


class Scene:
    """Rectangles and ellipses of 30 to 200 px, and boxes whose edges are off by up to 10 %.

    The logit of a mask changes by 1 over `softness` pixels; `specks` are stray cells, one in each
    mask's crop, more than 6 px away from the object's box.
    """

    def __init__(self, softness, specks, seed):
        random = np.random.default_rng(seed)
        side = random.uniform(30, 200, (COUNT, 2)).round()
        start = (random.uniform(size=(COUNT, 2)) * (SIDE - side)).round()
        self.truth = np.concatenate([start, start + side], axis=-1)
        off = random.uniform(-0.1, 0.1, (COUNT, 4)) * np.tile(side, 2)
        self.boxes = np.clip(self.truth + off, 0, SIDE).astype("float32")[None]
        self.frames = numpy(EDGES.crop(self.boxes, PICTURE, (0.1, 1.0)))
        shapes = [inside_ellipse(x) if i % 2 else -outside(x) for i, x in enumerate(self.truth)]
        logits = np.stack(shapes) / softness
        for mask, box, frame in zip(logits, self.truth, self.frames[0], strict=True):
            stray = np.argwhere((outside(frame) < -1) & (outside(box) > 6))
            if specks and len(stray):
                mask[tuple(random.choice(stray))] = mask.max()
        self.profiles = mask_profiles(logits.astype("float32")[None], self.frames, SIDE, SIDE)

    def iou(self, boxes):
        """Mean IoU of boxes with the objects'."""
        return numpy(box_iou(boxes, self.truth[None].astype("float32")))[0].diagonal().mean()

    def refined(self, refine):
        """The same of the boxes that `refine` makes of the scene's."""
        return self.iou(likeliest_boxes(refine(*self.profiles, self.boxes, PICTURE), self.boxes))


scene = functools.cache(Scene)


def test_published_weights_find_the_edges_of_sharp_masks():
    """They prefer the last pixel outside: half a pixel is lost on each side."""
    for seed in range(2):
        sharp = scene(0.25, False, seed)
        assert 0.81 < sharp.iou(sharp.boxes) < 0.84
        assert sharp.refined(layer(PUBLISHED, PUBLISHED_BIAS)) > 0.97


def test_it_learns_to_find_the_edges_of_soft_masks():
    """As in training: stochastic gradient descent of `boundary_loss`, from the edge detector."""
    soft, unseen = scene(1.0, False, 10), scene(1.0, False, 11)
    refine, optimizer = layer(), keras.optimizers.SGD(0.1, momentum=0.9)
    truth, positive = soft.truth[None].astype("float32"), np.ones((1, COUNT), "float32")
    loss = lambda found: boundary_loss(found, truth, positive)[0] / (4 * COUNT)  # noqa: E731
    assert unseen.iou(unseen.boxes) < unseen.refined(refine) < 0.88
    for _ in range(50):
        gradients = weight_gradients(refine, loss, *soft.profiles, soft.boxes, PICTURE)
        weights = refine.trainable_variables
        optimizer.apply([gradients[x.path] for x in weights], weights)
    assert unseen.refined(refine) > 0.97


def test_specks_beside_objects_lead_the_box_around_the_mask_astray():
    for seed in range(2):
        clean, ragged = scene(0.25, False, seed), scene(0.25, True, seed)
        around = [x.iou(enclosing_boxes(*x.profiles, x.boxes, 0.4)) for x in (clean, ragged)]
        assert around[0] > 0.99 and around[1] < 0.92
        assert ragged.refined(layer(PUBLISHED, PUBLISHED_BIAS)) > around[1] + 0.03
