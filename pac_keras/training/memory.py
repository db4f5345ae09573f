"""The process's memory between the steps of a training on the CPU."""

import ctypes
import platform

import keras

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


class RecycleMemory(keras.callbacks.Callback):
    """Lets glibc keep for the next step what a step frees, once the first one is over.

    A data set that comes from a Python generator makes TensorFlow 2.21 tell glibc, when it is first
    read, to hand freed memory back to the system above 128 KiB; each step then maps and zeroes all
    its tensors anew, which took half the time of a small Cascade Mask R-CNN's (docs/results.md).
    The environment variables MALLOC_* are read before that and do not help. Without glibc (macOS,
    Windows, musl) nothing is changed.
    """

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0 and platform.libc_ver()[0] == "glibc":
            recycle_memory()


def recycle_memory():
    """Tells glibc to use freed memory again instead of handing it back. Raises OSError if not."""
    options = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: 2**30, _TOP_PAD: 2**28}
    mallopt = ctypes.CDLL(None).mallopt
    if not all(mallopt(option, value) for option, value in options.items()):
        raise OSError(f"mallopt refused one of {options}")
