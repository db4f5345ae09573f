"""`train.py` as two processes that train one model, on this machine.

python -m pytest -n 0 -m slow tests/training/test_workers.py
"""

import csv
import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.distribute"),
]
ROOT = pathlib.Path(__file__).parents[2]
CONFIG = '''"""A Mask R-CNN of a few channels; an epoch is a step."""

from functools import partial

from pac_keras import MaskRCNN
from pac_keras.data import shapes
from pac_keras.training import Experiment

experiment = Experiment(
    model=partial(
        MaskRCNN, backbone="resnet18", base_channels=8, frozen_stages=0, norm="batch",
        channels=8, fc_channels=16, roi_samples=8, pre_nms=(50, 50), max_proposals=(50, 50),
        sampling="first",
    ),
    train=partial(shapes, count=4, size=64),
    valid=partial(shapes, count=4, size=64),
    epochs=2,
    batch_size=4,
    learning_rate=1e-3,
    optimizer="adamw",
    warmup_steps=0,
    schedule="cosine",
    evaluate_every=2,
    pictures=1,
    boundary=False,
)
'''


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path / "config.py"


def start(config, folder, *options, **environment):
    """The process of a run; what it prints goes to a file named after the folder."""
    command = [sys.executable, ROOT / "train.py", config, "--output", folder, *options]
    index = json.loads(environment.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0)
    with open(f"{folder}.{index}.txt", "a") as output:
        return subprocess.Popen(
            list(map(str, command)),
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        )


def run_two_workers(config, folder, ports, *options):
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": k}} for k in range(2)]
    processes = [start(config, folder, *options, TF_CONFIG=json.dumps(task)) for task in tasks]
    statuses = [process.wait(900) for process in processes]
    printed = [pathlib.Path(f"{folder}.{k}.txt").read_text() for k in range(2)]
    assert statuses == [0, 0], printed[0][-3000:] + printed[1][-3000:]
    return printed


def losses(folder):
    """{name: [value in each epoch]} of log.csv, without the metrics."""
    rows = list(csv.DictReader((folder / "log.csv").open()))
    names = [name for name in rows[0] if name not in ("epoch",) and not name.startswith("val_")]
    return {name: [float(row[name]) for row in rows] for name in names}


def test_two_workers_train_as_one_process_and_one_of_them_writes(config, tmp_path, free_ports):
    ports = free_ports(4)
    printed = run_two_workers(config, tmp_path / "two", ports[:2])
    assert "mask AP" in printed[0] and "mask AP" not in printed[1]
    assert start(config, tmp_path / "one").wait(900) == 0
    found, expected = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert found.keys() == expected.keys() and len(found["loss"]) == 2
    for name, values in expected.items():
        assert found[name][0] == pytest.approx(values[0], rel=1e-3, abs=1e-5), name
    files = {path.name for path in (tmp_path / "two").iterdir()}
    assert {path.name for path in (tmp_path / "one").iterdir()} == files
    assert (tmp_path / "two" / "pictures" / "final.jpg").is_file()

    printed = run_two_workers(
        config, tmp_path / "two", ports[2:], "--resume", "--epochs", "3", "--evaluate_every", "3"
    )
    assert all("step_0000002.keras, epoch 3, step 0" in text for text in printed)
    assert len(losses(tmp_path / "two")["loss"]) == 3
