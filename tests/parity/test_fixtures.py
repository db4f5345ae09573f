"""The stored reference numbers; the larger files run with `python -m tests.parity FIXTURE`."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.parity.fixture import Fixture
from tests.parity.operations import compare_operations
from tests.parity.rdsnet import compare_rdsnet
from tests.parity.refinemask import compare_refinemask
from tests.parity.systems import compare_system

_ROOT = Path(__file__).parents[2]
_DATA = _ROOT / "tests" / "data"
_SYSTEMS = ("ms_rcnn", "htc", "scnet")


@pytest.mark.parametrize("name", _SYSTEMS)
def test_systems_agree_with_the_reference(name):
    fixture = Fixture(_DATA / f"{name}_reference.npz")
    compare_system(fixture, training=keras.backend.backend() == "tensorflow")
    assert fixture.report()


def test_pac_with_parts_of_htc_is_htc():
    fixture = Fixture(_DATA / "htc_reference.npz")
    compare_system(fixture, "PAC", training=False)
    assert fixture.report()


def test_heads_of_refinemask_agree_with_the_reference():
    fixture = Fixture(_DATA / "refinemask_reference.npz")
    compare_refinemask(fixture, training=keras.backend.backend() == "tensorflow")
    assert fixture.report()
    assert not fixture.excused


def test_parts_of_rdsnet_agree_with_the_reference():
    fixture = Fixture(_DATA / "rdsnet_reference.npz")
    training = keras.backend.backend() == "tensorflow"
    compare_rdsnet(fixture, training)
    assert fixture.report()
    assert bool(fixture.excused) != training


def test_operations_agree_with_the_reference():
    fixture = Fixture(_DATA / "ops_reference.npz")
    compare_operations(fixture)
    assert fixture.report()
    assert len(fixture.excused) <= 0.01 * len(fixture.arrays)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*_SYSTEMS, "refinemask", "rdsnet"])
def test_systems_agree_with_the_reference_on_jax(name):
    """python -m pytest -m slow tests/parity"""
    command = [sys.executable, "-m", "tests.parity", _DATA / f"{name}_reference.npz", "--forward"]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    run = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_wrong_number_a_missing_and_an_uncompared_array_are_told(tmp_path, capsys):
    arrays = {"group/right": np.ones(3, "float32"), "group/wrong": np.ones(3, "float32")}
    np.savez(tmp_path / "f.npz", **arrays, **{"group/other": np.zeros(2)})
    fixture = Fixture(tmp_path / "f.npz")
    fixture.compare("group/right", [1, 1, 1], "features")
    fixture.compare("group/wrong", [1, 1, 1.001], "features")
    assert not fixture.report()
    told = capsys.readouterr().out
    assert "FAIL group/wrong" in told
    assert "NOT COMPARED: group/other" in told
    with pytest.raises(KeyError, match="group/absent"):
        fixture.compare("group/absent", [1], "features")
