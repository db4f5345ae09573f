import numpy as np
import pytest
from builders import count_weights, first, gradient, ground_truth, matches, numpy, weight_gradients
from keras import ops

from pac_keras.heads.pixel import (
    PixelStream,
    Protonet,
    correlate,
    mask_loss,
    masks_in_frames,
    object_masks,
    sample_instances,
)
from pac_keras.roi.sampling import NO_OBJECT
from pac_keras.structures import CROWD, PADDING


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def pyramid(channels, height=64, width=96):
    """{3..5: normal [1, h, w, channels]} of a picture."""
    random = np.random.default_rng(0)
    return {
        level: random.normal(size=(1, height // 2**level, width // 2**level, channels)).astype("f4")
        for level in (3, 4, 5)
    }


@pytest.mark.parametrize(("stream", "count"), [(PixelStream, 2_959_904), (Protonet, 2_368_544)])
def test_numbers_of_weights_and_stride_at_the_papers_size(stream, count):
    layer = stream(32, 256)
    assert layer(pyramid(256)).shape == (1, 16, 24, 32)
    assert count_weights(layer) == count


SMALL = {
    "pixel stream": lambda **options: PixelStream(3, 8, 2, **options),
    "protonet": lambda **options: Protonet(3, 8, **options),
}


@pytest.mark.parametrize("stream", SMALL.values(), ids=SMALL)
def test_every_weight_gets_a_gradient_and_vectors_are_linear_unless_rectified(stream):
    layer, maps = stream(), pyramid(8)
    layer(maps)
    layer.vectors.kernel.assign(np.tile(np.float32([1, -1, 2]), (1, 1, 8, 1)))
    vectors = numpy(layer(maps))
    gradients = weight_gradients(layer, lambda out: ops.sum(out * out), maps)
    assert all(np.abs(x).max() > 0 for x in gradients.values())
    assert vectors.min() < 0 < vectors.max()
    rectified = stream(rectify=True)
    rectified(maps)
    rectified.set_weights(layer.get_weights())
    np.testing.assert_allclose(numpy(rectified(maps)), np.maximum(vectors, 0), atol=1e-6)


class Scale:
    """Stands for a convolution with norm: a factor, so that what it did can be read off."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x


def aligned(length, count):
    """0..length - 1 enlarged to `count` values, corners in place."""
    return np.linspace(0, length - 1, count)


def test_pixel_stream_sums_its_levels_with_aligned_corners():
    """P5 is doubled twice, with a convolution before each; the sum is doubled once more."""
    layer = PixelStream(1, 1, 1)
    maps = {level: np.zeros((1, 128 >> level, 128 >> level, 1), "float32") for level in (3, 4, 5)}
    layer(maps)
    layer.lateral = {"3": [Scale(1)], "4": [Scale(10)], "5": [Scale(10), Scale(10)]}
    layer.joined = Scale(2)
    layer.vectors.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    ones = {level: x + 1 for level, x in maps.items()}
    np.testing.assert_allclose(numpy(layer(ones)), 2 * 111, rtol=1e-5)
    for level, factor in ((3, 2), (4, 20)):
        line = {**maps, level: maps[level] + np.arange(128 >> level)[:, None, None]}
        expected = factor * aligned(128 >> level, 32)
        np.testing.assert_allclose(numpy(layer(line))[0, :, 5, 0], expected, rtol=1e-4, atol=1e-4)
    wave = {**maps, 5: maps[5] + np.float32([3, 0, 2, 1])[:, None, None]}
    twice = np.interp(aligned(4, 8), range(4), [3, 0, 2, 1])
    for length in (16, 32):
        twice = np.interp(aligned(len(twice), length), range(len(twice)), twice)
    np.testing.assert_allclose(numpy(layer(wave))[0, :, 5, 0], 200 * twice, rtol=1e-4, atol=1e-3)


def test_protonet_doubles_before_its_last_convolution():
    layer, maps = Protonet(1, 1), {3: np.zeros((1, 4, 4, 1), "float32")}
    layer(maps)
    copying = np.zeros((3, 3, 1, 1))
    copying[1, 1] = 1
    for conv in layer.convs[:3]:
        conv.set_weights([copying, np.zeros(1)])
    layer.convs[3].set_weights([np.roll(copying, 1, axis=1), np.zeros(1)])  # its right neighbour
    layer.vectors.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    maps[3][0, :, :, 0] = np.arange(4)
    across = numpy(layer(maps))[0, 3, :, 0]  # half-pixel convention, moved by a cell of stride 4
    np.testing.assert_allclose(across, [0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3, 0], atol=1e-5)


def test_correlation_by_hand():
    pixels = np.float32([[[[1, 2], [0, -1], [3, 0]]]])  # one row of three pixels
    vectors = np.float32([[[1, 0, 2, 1], [0, 1, 0, 1]]])  # background, then object
    both = numpy(correlate(vectors, pixels))
    np.testing.assert_allclose(both, [[[[3, -1, 3]], [[0, 0, 0]]]])
    alone = numpy(correlate(vectors[..., 2:], pixels))
    np.testing.assert_allclose(alone, [[[[4, -1, 6]], [[2, -1, 0]]]])


def test_correlation_is_a_softmax_over_background_and_object():
    random = np.random.default_rng(1)
    vectors, pixels = random.normal(size=(2, 3, 10)), random.normal(size=(2, 4, 6, 5))
    exponentials = np.exp(np.einsum("bnkc,bhwc->kbnhw", vectors.reshape(2, 3, 2, 5), pixels))
    found = numpy(correlate(vectors.astype("float32"), pixels.astype("float32")))
    np.testing.assert_allclose(sigmoid(found), exponentials[1] / exponentials.sum(0), atol=1e-5)
    half = numpy(correlate(vectors.astype("float32"), pixels.astype("float16")))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, found, atol=0.05)


def test_frames_sample_a_ramp_of_logits_at_their_cells_middles():
    """Vector (i, j) lies at the pixel (4 j + 2, 4 i + 2); beyond the last ones is constant."""
    y, x = np.meshgrid(np.arange(8), np.arange(12), indexing="ij")
    logits = np.tile((0.3 * x - 0.5 * y).astype("float32"), (1, 2, 1, 1))
    frames = np.float32([[[8, 4, 24, 12], [-4, 20, 12, 36]]])
    found = numpy(masks_in_frames(logits, frames, 4))
    across = [(np.float64([10, 14, 18, 22]) - 2) / 4, [0, 0, 1, 2]]
    down = [(np.float64([5, 7, 9, 11]) - 2) / 4, [5, 6, 7, 7]]
    for mask, across, down in zip(found[0], across, down, strict=True):  # noqa: B020
        expected = sigmoid(0.3 * np.asarray(across) - 0.5 * np.asarray(down)[:, None])
        np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_frames_moved_by_a_cell_see_the_next_cell():
    logits = np.random.default_rng(2).normal(size=(1, 1, 10, 12)).astype("float32")
    frames = np.float32([[[9, 7, 30, 21]]])
    still = numpy(masks_in_frames(logits, frames, 7))
    for axis, shift in ((3, [4, 0, 4, 0]), (2, [0, 4, 0, 4])):
        rolled = np.roll(logits, 1, axis=axis)
        moved = numpy(masks_in_frames(rolled, frames + np.float32(shift), 7))
        np.testing.assert_allclose(moved, still, atol=1e-5)
    assert np.abs(numpy(masks_in_frames(logits, frames + 4, 7)) - still).max() > 0.1


def drawn(*cells, side=8):
    """GroundTruth of one object over a picture of `side` pixels, with the given ones set."""
    bitmap = np.zeros((1, 1, side, side), "uint8")
    for y, x in cells:
        bitmap[0, 0, y, x] = 1
    frame = [[[0, 0, side, side]]]
    return ground_truth(frame, [[0]], bitmap, frame, extra=1)


def test_objects_on_the_grid_have_more_than_two_of_four_middle_pixels():
    middle = [(5, 1), (5, 2), (6, 1), (6, 2)]  # of cell (1, 0)
    expected = np.zeros((2, 2))
    for count in range(5):
        expected[1, 0] = count > 2
        found = numpy(object_masks(drawn(*middle[:count]), 2, 2))
        np.testing.assert_array_equal(found[0, 0], expected)
        assert not found[0, 1].any()  # padding
    around = [(y, x) for y in range(4, 8) for x in range(4) if (y, x) not in middle]
    assert not numpy(object_masks(drawn(*around), 2, 2)).any()


def sampled(labels, positive, objects, truth, count):
    found = sample_instances(matches([objects], [labels], [positive]), truth, count, first)
    return [numpy(x)[0].tolist() for x in found]


def test_sampled_instances_are_positive_and_large():
    """Objects of 100, 121, 100 (half of 200) and 200 (half of 400) square pixels."""
    boxes = [[[0, 0, 10, 10], [0, 0, 11, 11], [0, 0, 20, 10], [0, 0, 20, 20]]]
    masks = np.ones((1, 4, 4, 4), "uint8")
    masks[:, 2:, :, 2:] = 0
    truth = ground_truth(boxes, [[4, 5, 6, 7]], masks, boxes, extra=2)
    labels = [4, NO_OBJECT, 7, 5, 6, PADDING, 5]
    positive, objects = [1, 0, 1, 1, 1, 0, 1], [0, 0, 3, 1, 2, 0, 1]
    rows, found, valid = sampled(labels, positive, objects, truth, 5)
    assert valid == [1, 1, 1, 0, 0]
    assert rows[:3] == [2, 3, 6]
    assert found[:3] == [3, 1, 1]
    assert len(rows) == len(found) == 5
    rows, found, valid = sampled(labels, positive, objects, truth, 2)
    assert (rows, found, valid) == ([2, 3], [3, 1], [1, 1])
    assert len(sampled(labels, positive, objects, truth, 9)[2]) == 9  # more than anchors


def test_pictures_without_objects_sample_nothing():
    truth = ground_truth([[[0, 0, 40, 40], [0, 0, 0, 0]]], [[CROWD, PADDING]])
    _, objects, valid = sampled([PADDING, NO_OBJECT, NO_OBJECT], [0] * 3, [0] * 3, truth, 2)
    assert valid == objects == [0, 0]


LOGITS = np.float32([[[[2, -1, 0.5], [1, 3, -2]]]])
TARGETS = np.float32([[[[1, 0, 0], [0, 0, 0]]]])
CROP = np.float32([[[0, 0, 2, 2]]])  # without the last column


def by_hand(pixels):
    """Sum of -log(probability of the truth) over pixels (y, x), divided by their number + 1."""
    probability = np.where(TARGETS == 1, sigmoid(LOGITS), 1 - sigmoid(LOGITS))[0, 0]
    return sum(-np.log(probability[pixel]) for pixel in pixels) / (len(pixels) + 1)


def test_mask_loss_by_hand():
    valid = np.ones((1, 1), "float32")
    total, count = mask_loss(LOGITS, TARGETS, CROP, valid, ohem=False)
    everything = by_hand([(0, 0), (0, 1), (1, 0), (1, 1)])
    assert (float(total), float(count)) == (pytest.approx(everything, rel=1e-5), 1)
    total, count = mask_loss(LOGITS, TARGETS, CROP, valid, ohem=True)
    hard = by_hand([(0, 0), (1, 1)])  # as many background pixels as the object has
    assert (float(total), float(count)) == (pytest.approx(hard, rel=1e-5), 1)
    two = np.tile(LOGITS, (1, 2, 1, 1)), np.tile(TARGETS, (1, 2, 1, 1)), np.tile(CROP, (1, 2, 1))
    for validity, times in ((np.ones((1, 2)), 2), (np.float32([[0, 1]]), 1)):
        total, count = mask_loss(*two, np.asarray(validity, "float32"), ohem=True)
        assert (float(total), float(count)) == (pytest.approx(times * hard, rel=1e-5), times)


def test_masks_without_pixels_have_a_finite_loss():
    valid = np.ones((1, 1), "float32")
    total, count = mask_loss(LOGITS, TARGETS, 0 * CROP, valid, ohem=True)
    assert (float(total), float(count)) == (0, 1)
    total, count = mask_loss(
        LOGITS, 0 * TARGETS, CROP, valid, ohem=True
    )  # no object, no background
    assert (float(total), float(count)) == (0, 1)


@pytest.mark.parametrize("ohem", [True, False])
def test_pixels_outside_the_crop_and_invalid_masks_have_no_gradient(ohem):
    random = np.random.default_rng(3)
    logits = random.normal(size=(1, 2, 6, 8)).astype("float32")
    targets = (random.uniform(size=logits.shape) > 0.7).astype("float32")
    crops = np.tile(np.float32([[[1.4, 2.0, 5.6, 4.0]]]), (1, 2, 1))
    inside = np.zeros((6, 8), bool)
    inside[2:4, 1:6] = True  # middles from 1.5 to 5.5
    valid = np.float32([[1, 0]])
    slope = gradient(lambda x: mask_loss(x, targets, crops, valid, ohem)[0], logits)
    assert not slope[0, 1].any() and not slope[0, 0][~inside].any()
    assert slope[0, 0][inside & (targets[0, 0] > 0)].all()
    assert ohem or slope[0, 0][inside].all()
