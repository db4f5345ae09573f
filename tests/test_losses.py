import numpy as np
from builders import gradient, numpy
from keras import ops

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


def test_focal_loss_by_its_formula():
    logits = np.asarray([0, 2, -1, 2, -3], "float32")
    targets = np.asarray([1, 1, 1, 0, 0], "float32")
    probability = 1 / (1 + np.exp(-logits.astype("float64")))
    true = np.where(targets == 1, probability, 1 - probability)
    alpha = np.where(targets == 1, 0.25, 0.75)
    loss = numpy(losses.focal(logits, targets))
    np.testing.assert_allclose(loss, -alpha * (1 - true) ** 2 * np.log(true), rtol=1e-5)
    assert loss[0] == np.float32(0.25 * 0.25 * np.log(2))
    other = numpy(losses.focal(logits, targets, gamma=1.0, alpha=0.5))
    np.testing.assert_allclose(other, -0.5 * (1 - true) * np.log(true), rtol=1e-5)


def test_focal_loss_is_finite_with_a_finite_gradient_for_huge_logits():
    logits, targets = np.asarray([80, -80, 80, -80], "float32"), np.asarray([1, 0, 0, 1], "float32")
    loss = numpy(losses.focal(logits, targets))
    np.testing.assert_allclose(loss, [0, 0, 60, 20], rtol=1e-6)
    slope = gradient(lambda x: ops.sum(losses.focal(x, targets)), logits)
    np.testing.assert_allclose(slope, [0, 0, 0.75, -0.25], atol=1e-6)


def hardest(errors, candidates, count):
    errors, candidates = np.asarray(errors, "float32"), np.asarray(candidates, "float32")
    return numpy(losses.hardest(errors, candidates, np.asarray(count, "float32"))).tolist()


def test_hardest_by_hand():
    errors = [[0.1, 0.9, 0.5, 0.7, 0.3]] * 4
    candidates = [[1, 0, 1, 1, 1]] * 4  # without the largest
    expected = [[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 1, 0], [1, 0, 1, 1, 1]]
    assert hardest(errors, candidates, [0, 1, 2, 4]) == expected
    assert hardest(errors, candidates, [5, 7, 100, 3]) == [expected[3]] * 3 + [[0, 0, 1, 1, 1]]


def test_hardest_of_equal_errors_and_of_no_candidates():
    assert hardest([[0.5, 0.2, 0.5, 0.5]], [[1, 1, 1, 0]], [1]) == [[1, 0, 1, 0]]
    assert hardest([[0, 0, 0]], [[1, 0, 1]], [1]) == [[1, 0, 1]]
    assert hardest([[0.5, 0.2]], [[0, 0]], [2]) == [[0, 0]]
    nested = hardest([[[0.5, 0.2], [0.1, 0.3]]], np.ones((1, 2, 2)), [[1, 1]])
    assert nested == [[[1, 0], [0, 1]]]


def test_hardest_has_no_gradient():
    errors = np.asarray([[0.5, 0.2, 0.9]], "float32")
    chosen = lambda x: losses.hardest(x, np.ones((1, 3)), np.ones(1))  # noqa: E731
    slope = gradient(lambda x: ops.sum(chosen(x) * x), errors)
    np.testing.assert_array_equal(slope, [[0, 0, 1]])
