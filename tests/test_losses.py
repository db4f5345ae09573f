import numpy as np
from builders import numpy

from pac_keras import losses


def test_cross_entropy_by_hand():
    logits = np.log([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]).astype("float32")
    loss = numpy(losses.cross_entropy(logits, np.asarray([2, 1])))
    np.testing.assert_allclose(loss, [-np.log(0.5), -np.log(0.1)], rtol=1e-6)


def test_cross_entropies_are_finite_for_huge_logits():
    loss = numpy(losses.cross_entropy(np.asarray([[1e4, 0], [0, 1e4]], "float32"), np.zeros(2)))
    np.testing.assert_allclose(loss, [0, 1e4], rtol=1e-6)
    logits = np.asarray([1e4, -1e4, 1e4, -1e4], "float32")
    loss = numpy(losses.binary_cross_entropy(logits, np.asarray([1, 0, 0, 1])))
    np.testing.assert_allclose(loss, [0, 0, 1e4, 1e4], rtol=1e-6)


def test_binary_cross_entropy_by_hand():
    logits = np.asarray([0, np.log(3), np.log(3)], "float32")  # probabilities 1/2, 3/4, 3/4
    loss = numpy(losses.binary_cross_entropy(logits, np.asarray([1, 1, 0.5], "float32")))
    expected = [np.log(2), -np.log(0.75), -0.5 * (np.log(0.75) + np.log(0.25))]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_smooth_l1_and_absolute_error_by_hand():
    predicted = np.asarray([0, 0.5, -1, 3, 2.5], "float32")
    target = np.asarray([0, 0, 0, 1, 3], "float32")
    smooth = numpy(losses.smooth_l1(predicted, target))
    np.testing.assert_allclose(smooth, [0, 0.125, 0.5, 1.5, 0.125])
    ninth = numpy(losses.smooth_l1(predicted, target, 1 / 9))
    expected = [0, 0.5 - 1 / 18, 1 - 1 / 18, 2 - 1 / 18, 0.5 - 1 / 18]
    np.testing.assert_allclose(ninth, expected, rtol=1e-6)
    absolute = numpy(losses.absolute_error(predicted, target))
    np.testing.assert_allclose(absolute, [0, 0.5, 1, 2, 0.5])


def test_smooth_l1_is_quadratic_below_beta():
    error = np.asarray([0.05, 0.1], "float32")
    loss = numpy(losses.smooth_l1(error, np.zeros(2, "float32"), 1 / 9))
    np.testing.assert_allclose(loss, 4.5 * error**2, rtol=1e-6)


def test_losses_compute_in_float32():
    half = np.asarray([[300.0, 1.0]], "float16")
    assert numpy(losses.cross_entropy(half, np.asarray([1]))).dtype == np.float32
    assert numpy(losses.binary_cross_entropy(half, np.zeros((1, 2)))).dtype == np.float32
    squared = numpy(losses.smooth_l1(half, np.zeros((1, 2), "float32"), 1000.0))
    np.testing.assert_allclose(squared, [[45.0, 0.0005]], rtol=1e-6)  # 300 ** 2 overflows float16


def test_weighted_scales_the_sum_alone():
    total, count = losses.weighted((np.float32(3), np.float32(7)), 0.25)
    assert (float(total), float(count)) == (0.75, 7)
