"""Repeat-factor sampling: pictures with rare classes are shown more often.

Source: Gupta et al. 2019 (LVIS), section 4.2.
"""

import numpy as np


def repeat_factors(labels, threshold):
    """float64 `[pictures]`, at least 1: how often an epoch shows each picture, on average.

    A class that the share f of the pictures holds asks for sqrt(threshold / f); a picture gets the
    most that one of its classes asks for.

    Args:
        labels: int array per picture; negative ones (crowd) are no class.
        threshold: share of pictures below which a class counts as rare, in (0, 1].
    """
    classes = [np.unique(row[row >= 0]) for row in labels]
    pictures = np.bincount(np.concatenate(classes).astype("int64"))  # that hold each class
    share = np.maximum(pictures, 1) / len(labels)
    factors = np.maximum(np.sqrt(threshold / share), 1.0)
    return np.asarray([factors[row].max(initial=1.0) for row in classes])


def repeated(indices, factors, random):
    """`indices`, each floor(factor) or ceil(factor) times: factor times on average.

    The fractions are rounded by systematic resampling: one draw, and a picture is repeated where
    the running sum of fractions passes a whole number behind it. So an epoch's size varies by one
    at most, whatever the draw.

    Args:
        indices: int `[N]`, in random order: neighbours are not rounded independently.
        factors: float `[N]`, >= 0.
        random: `numpy.random.Generator`.
    """
    whole = np.floor(factors)
    passed = np.ceil(np.cumsum(factors - whole) - random.random())
    times = whole + np.diff(passed, prepend=0.0)
    return np.repeat(indices, times.astype("int64"))


def copy_numbers(indices):
    """int `[N]`: how often each of `indices` `[N]` occurs before its place."""
    order = np.argsort(indices, kind="stable")
    ascending = indices[order]
    copies = np.empty(len(indices), "int64")
    copies[order] = np.arange(len(indices)) - np.searchsorted(ascending, ascending)
    return copies
