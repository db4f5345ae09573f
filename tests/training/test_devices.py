"""Which devices a run takes, and what TF_CONFIG may say."""

import json

import keras
import pytest

from pac_keras.training import ExperimentError
from pac_keras.training.devices import Devices

TWO = {"worker": ["a:1", "b:2"]}

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TF_CONFIG is TensorFlow's"
)


def test_a_machine_without_gpus_is_one_device(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    devices = Devices(3)
    assert (devices.count, devices.chief, devices.alone) == (1, True, True)
    with devices.scope():
        devices.wait_for_all()


@pytest.mark.parametrize("index", [0, 1])
def test_a_cluster_of_one_worker_is_one_device(monkeypatch, index):
    config = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    if index:
        with pytest.raises(ExperimentError, match="TF_CONFIG: expected"):
            Devices(4)
    else:
        assert Devices(4).alone


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"cluster": {}, "task": {"type": "worker", "index": 0}}),
        json.dumps({"cluster": TWO}),
        json.dumps({"cluster": TWO, "task": {"type": "ps", "index": 0}}),
        json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 2}}),
        json.dumps({"cluster": TWO, "task": {"type": "worker", "index": "x"}}),
    ],
)
def test_what_tf_config_should_be_is_told(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ExperimentError, match=r"TF_CONFIG: expected .* received"):
        Devices(4)
