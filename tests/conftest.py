"""Fixtures for all tests."""

import contextlib
import socket
from pathlib import Path

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seed():
    """Initial weights and samples are the same in each run: what fails once fails again."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def reference():
    """Function: prefix -> {name: array} of `data/ops_reference.npz`, see `data/README.md`."""
    with np.load(Path(__file__).parent / "data" / "ops_reference.npz") as archive:
        arrays = dict(archive)

    def under(prefix):
        found = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        assert found, f"no reference numbers under {prefix!r}"
        return found

    return under


@pytest.fixture
def free_ports():
    """Function: count -> port numbers of this machine that nothing listens on."""

    def find(count):
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for one in sockets:
                one.bind(("localhost", 0))
            return [one.getsockname()[1] for one in sockets]

    return find
