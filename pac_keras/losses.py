"""Elementwise losses. The caller gives weights and the normaliser, and sums.

All take and return float32; logits are cast.
"""

from keras import ops


def cross_entropy(logits, labels):
    """Softmax cross entropy of each row: `[..., K]`, int `[...]` in 0..K-1 -> float32 `[...]`."""
    logits = ops.cast(logits, "float32")
    at_label = ops.take_along_axis(logits, ops.cast(labels, "int32")[..., None], axis=-1)
    return ops.logsumexp(logits, axis=-1) - at_label[..., 0]


def binary_cross_entropy(logits, targets):
    """Sigmoid cross entropy of each element; `targets` in [0, 1], the shape of `logits`."""
    logits = ops.cast(logits, "float32")
    targets = ops.cast(targets, "float32")
    return ops.maximum(logits, 0.0) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))


def smooth_l1(predicted, target, beta=1.0):
    """Smooth L1 of each element: quadratic below `beta`, `|error| - beta / 2` above.

    Source: Girshick 2015, equation 3, with the transition at `beta`.
    """
    error = ops.abs(ops.cast(predicted, "float32") - target)
    return ops.where(error < beta, 0.5 * error * error / beta, error - 0.5 * beta)


def absolute_error(predicted, target):
    """L1 of each element."""
    return ops.abs(ops.cast(predicted, "float32") - target)


def weighted(loss, weight):
    """A (sum, count) whose sum is multiplied by `weight`."""
    total, count = loss
    return weight * total, count
