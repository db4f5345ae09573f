"""Which implementation of RoIAlign and NMS a trace uses.

On TensorFlow both have kernels several times faster than their `keras.ops` versions, but these
kernels do not compile under XLA and do not run in LiteRT. Inside `with portable():` everything is
traced with `keras.ops` alone. The two versions are tested against each other.
"""

import contextlib
import contextvars

import keras

_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable():
    """Context in which functions are traced without TensorFlow's own kernels."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def use_tensorflow_kernels():
    """True where TensorFlow is the backend and the trace need not be portable."""
    return keras.backend.backend() == "tensorflow" and not _portable.get()
