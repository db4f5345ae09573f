"""Freed memory is used again, also after TensorFlow has told glibc to hand it back."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
import numpy as np
from pac_keras.training.memory import RecycleMemory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        np.ones(2**20, "uint8")
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ctypes.CDLL(None).mallopt(-1, 2**17)  # as TensorFlow does
before = page_faults()
RecycleMemory().on_train_batch_end(1)
untouched = page_faults()
RecycleMemory().on_train_batch_end(0)
page_faults()
print(before, untouched, page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_is_recycled_after_the_first_step():
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, untouched, after = map(int, answer.stdout.split())
    assert before > 20_000 and untouched > 20_000  # 256 pages of 4 KiB in each array
    assert after < 1_000
