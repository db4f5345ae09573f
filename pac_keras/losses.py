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


def focal(logits, targets, gamma=2.0, alpha=0.25):
    """Focal loss of each element; `targets` 0 or 1, the shape of `logits`.

    Source: Lin et al. 2017 (RetinaNet), equation 5.
    """
    targets = ops.cast(targets, "float32")
    sign = 2.0 * targets - 1.0
    wrong = ops.sigmoid(-sign * ops.cast(logits, "float32"))  # 1 - p of the true answer
    balance = alpha * targets + (1.0 - alpha) * (1.0 - targets)
    return balance * wrong**gamma * binary_cross_entropy(logits, targets)


def smooth_l1(predicted, target, beta=1.0):
    """Smooth L1 of each element: quadratic below `beta`, `|error| - beta / 2` above.

    Source: Girshick 2015, equation 3, with the transition at `beta`.
    """
    error = ops.abs(ops.cast(predicted, "float32") - target)
    return ops.where(error < beta, 0.5 * error * error / beta, error - 0.5 * beta)


def absolute_error(predicted, target):
    """L1 of each element."""
    return ops.abs(ops.cast(predicted, "float32") - target)


def hardest(errors, candidates, count):
    """1 for the `count` candidates of each row with the largest errors (and for equal ones).

    Args:
        errors: float32 `[..., N]`, not negative.
        candidates: `[..., N]`, 1 or 0.
        count: `[...]`, 0 or more.

    Returns:
        float32 `[..., N]`, without gradient.
    """
    ranked = ops.stop_gradient(ops.where(candidates > 0.0, errors, -1.0))
    last = ops.clip(ops.cast(count, "int32"), 1, ops.shape(errors)[-1]) - 1
    limit = ops.take_along_axis(-ops.sort(-ranked, axis=-1), last[..., None], axis=-1)
    chosen = (ranked >= limit) & (candidates > 0.0) & (count > 0)[..., None]
    return ops.cast(chosen, "float32")


def weighted(loss, weight):
    """A (sum, count) whose sum is multiplied by `weight`."""
    total, count = loss
    return weight * total, count
