"""Which implementation of NMS and of RoIAlign with adaptive sampling a trace uses.

On TensorFlow both have kernels that are faster or exact where the `keras.ops` version is not, but
they do not compile under XLA and do not run in LiteRT. Inside `with portable():` everything is
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
