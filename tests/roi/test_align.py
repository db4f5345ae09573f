import contextlib

import keras
import numpy as np
import pytest
from builders import compiled, gradient, numpy
from keras import ops

from pac_keras.kernels import portable
from pac_keras.roi.align import MAX_ADAPTIVE_SAMPLES, roi_align

RAMP = (10 * np.arange(8)[:, None] + np.arange(8)).astype("float32")[None, :, :, None]  # 10 y + x
GOLDEN = [  # region, with adaptive sampling = with 2 x 2 samples, of stride 4 and 2 x 2 bins
    ((0, 0, 32, 32), [16.5, 20.5, 56.5, 60.5]),
    ((5, 3, 21, 29), [20.5, 22.5, 53, 55]),
    ((-4, -4, 10, 10), [0, 0.5625, 5.625, 12.375]),
]
PATHS = {"kernels": contextlib.nullcontext, "portable": portable}


@pytest.fixture(params=PATHS)
def path(request):
    """The two implementations, as contexts."""
    return PATHS[request.param]


def align(maps, strides, boxes, size, sampling_ratio):
    """`roi_align` of all boxes on the first map, compiled, `[B, R, size, size, C]`."""
    boxes = np.asarray(boxes, "float32")
    levels = np.zeros(boxes.shape[:2], "int32")
    function = compiled(lambda *x: roi_align(x, strides, boxes, levels, size, sampling_ratio))
    return ops.reshape(function(*maps), (*boxes.shape[:2], size, size, -1))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_ramp_by_hand(path, sampling_ratio):
    boxes, expected = zip(*GOLDEN, strict=True)
    with path():
        cut = numpy(align([RAMP], [4], [boxes], 2, sampling_ratio))
    np.testing.assert_allclose(cut.reshape(3, 4), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_constant_maps_and_far_boxes(path, sampling_ratio):
    boxes = [[(2, 3, 28, 30), (100, 100, 140, 120), (-90, 0, -50, 20)]]
    with path():
        cut = numpy(align([np.full((1, 8, 8, 2), 5, "float32")], [4], boxes, 3, sampling_ratio))
    np.testing.assert_allclose(cut[0, 0], 5, rtol=1e-6)
    assert not cut[0, 1:].any()


def test_boxes_without_area(path):
    boxes = [[(8, 8, 8, 20), (8, 8, 8, 8), (0, 0, 0, 0)]]
    with path():
        adaptive = numpy(align([RAMP], [4], boxes, 2, 0))
        fixed = numpy(align([RAMP], [4], boxes, 2, 2))
    assert not adaptive.any()  # no samples at all
    point = 10 * 1.5 + 1.5  # fixed samples all fall on one point, (8 / 4 - 0.5, 8 / 4 - 0.5)
    np.testing.assert_allclose(fixed[0, 1].ravel(), [point] * 4, rtol=1e-6)
    assert np.isfinite(fixed).all()


def regions(case):
    """Boxes `[2, R, 4]`, all of them in both pictures, and (picture, row) of the reference's."""
    rois = case["rois"]
    boxes = np.tile(rois[None, :, 1:], (2, 1, 1))
    return boxes, rois[:, 0].astype(int), np.arange(len(rois))


def is_capped(path):
    """Whether adaptive samples are limited to `MAX_ADAPTIVE_SAMPLES`."""
    return path is portable or keras.backend.backend() != "tensorflow"


def samples(boxes, stride, size):
    """Adaptive samples per bin, the larger of both axes."""
    return np.ceil((boxes[:, 2:] - boxes[:, :2]).max(axis=1) / stride / size)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize(("stride", "size"), [(4, 7), (16, 7), (8, 14), (32, 14)])
def test_agrees_with_the_reference(reference, path, stride, sampling_ratio, size):
    case = reference("roi_align/")
    boxes, picture, row = regions(case)
    features = case[f"feat_s{stride}"].transpose(0, 2, 3, 1)
    with path():
        cut = numpy(align([features], [stride], boxes, size, sampling_ratio))[picture, row]
    expected = case[f"out_s{stride}_sr{sampling_ratio}_{size}x{size}"].transpose(0, 2, 3, 1)
    exact = np.ones(len(cut), bool)
    if sampling_ratio == 0 and is_capped(path):
        exact = samples(case["rois"][:, 1:], stride, size) <= MAX_ADAPTIVE_SAMPLES
        assert exact.sum() >= 27  # one box is 2000 pixels wide
    np.testing.assert_allclose(cut[exact], expected[exact], atol=2e-5)


@pytest.mark.parametrize(("stride", "sampling_ratio"), [(s, r) for s in (4, 32) for r in (0, 2)])
def test_gradient_agrees_with_the_reference(reference, path, stride, sampling_ratio):
    if sampling_ratio == 0 and stride < 32 and is_capped(path):
        pytest.skip("one box of the stored gradient needs more than 16 samples")
    case = reference("roi_align/")
    boxes, picture, row = regions(case)
    features = case[f"feat_s{stride}"].transpose(0, 2, 3, 1)
    name = f"out_s{stride}_sr{sampling_ratio}_7x7"
    cotangent = np.zeros((*boxes.shape[:2], 7, 7, 3), "float32")
    cotangent[picture, row] = case[f"{name}_gradout"].transpose(0, 2, 3, 1)
    expected = case[f"{name}_gradin"].transpose(0, 2, 3, 1)

    def loss(x):
        return ops.sum(align([x], [stride], boxes, 7, sampling_ratio) * cotangent)

    with path():
        ours = gradient(loss, features)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_both_implementations_agree_in_value_and_gradient(sampling_ratio):
    random = np.random.default_rng(0)
    maps = [random.normal(size=(2, 24 // k, 32 // k, 3)).astype("float32") for k in (1, 2)]
    low = random.uniform(-10, 80, (2, 9, 2))
    boxes = np.concatenate([low, low + random.uniform(0, 60, (2, 9, 2))], -1).astype("float32")
    levels = random.integers(0, 2, (2, 9)).astype("int32")
    weights = random.normal(size=(18, 5, 5, 3)).astype("float32")

    def loss(x):
        cut = roi_align([x, maps[1]], [4, 8], boxes, levels, 5, sampling_ratio)
        return ops.sum(cut * weights)

    ours = numpy(compiled(loss)(maps[0])), gradient(loss, maps[0])
    with portable():
        other = numpy(compiled(loss)(maps[0])), gradient(loss, maps[0])
    np.testing.assert_allclose(ours[0], other[0], atol=1e-3)
    np.testing.assert_allclose(ours[1], other[1], atol=1e-4)
    assert np.abs(ours[1]).max() > 0.1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a kernel of TensorFlow")
def test_the_gradient_is_not_the_kernel_s_own():
    """crop_and_resize's gradient adds from several threads at once: on CPUs it loses summands."""
    import tensorflow as tf

    boxes, levels = np.zeros((1, 3, 4), "float32"), np.zeros((1, 3), "int32")

    @tf.function
    def slope(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            value = tf.reduce_sum(roi_align([features], [4], boxes, levels, 7))
        return tape.gradient(value, features)

    graph = slope.get_concrete_function(tf.zeros((1, 8, 8, 3))).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert "CropAndResize" in kinds
    assert "SparseTensorDenseMatMul" in kinds
    assert "CropAndResizeGradImage" not in kinds


def test_each_box_reads_its_own_level_and_picture(path):
    maps = [np.zeros((2, 8 // k, 8 // k, 1), "float32") for k in (1, 2)]
    for level in range(2):
        for picture in range(2):
            maps[level][picture] = 10 * level + picture + 1
    boxes = np.tile(np.asarray([[4, 4, 20, 20]], "float32"), (2, 3, 1))
    levels = np.asarray([[0, 1, 0], [1, 1, 0]], "int32")
    for ratio in (0, 2):
        with path():
            cut = numpy(
                compiled(lambda *x, ratio=ratio: roi_align(x, [4, 8], boxes, levels, 2, ratio))(
                    *maps
                )
            )
        expected = np.asarray([1, 11, 1, 12, 12, 2])[:, None, None, None]
        np.testing.assert_allclose(cut, np.tile(expected, (1, 2, 2, 1)))


def test_boxes_get_no_gradient(path):
    boxes = np.asarray([[[3, 3, 17, 21]]], "float32")
    levels = np.zeros((1, 1), "int32")

    def loss(x):  # through the boxes only the factor has a gradient
        return ops.sum(roi_align([RAMP], [4], x, levels, 2, 2)) + ops.sum(x)

    with path():
        np.testing.assert_array_equal(gradient(loss, boxes), np.ones((1, 1, 4)))


def test_half_precision_maps_give_half_precision_features(path):
    with path():
        for sampling_ratio in (0, 2):
            cut = numpy(align([RAMP.astype("float16")], [4], [[GOLDEN[1][0]]], 2, sampling_ratio))
            assert cut.dtype == np.float16
            np.testing.assert_allclose(cut.ravel(), GOLDEN[1][1], rtol=2e-3)
