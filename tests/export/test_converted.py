"""A model made of a published checkpoint's tensors is exported like one that was trained here.

Their RoIAlign samples adaptively, which nothing else in these tests does.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from pictures import coarse, encoded

from pac_keras import MaskScoringRCNN
from pac_keras.__main__ import main
from pac_keras.weights import to_mmdet

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = {"saved_model": "tensorflow", "onnx": "tf2onnx", "tflite": "ai_edge_litert"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exports are TensorFlow's graphs"
    ),
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Path of a Mask Scoring R-CNN that `convert` wrote, and of a folder of three pictures."""
    folder = tmp_path_factory.mktemp("converted")
    keras.utils.set_random_seed(1)
    sizes = {"base_channels": 8, "channels": 8, "fc_channels": 16}
    np.savez(folder / "published.npz", **to_mmdet(MaskScoringRCNN(5, "resnet18", **sizes)))
    classes = [{"id": i, "name": f"thing {i}"} for i in range(1, 6)]
    content = {"images": [], "annotations": [], "categories": classes}
    (folder / "five.json").write_text(json.dumps(content))
    arguments = [folder / "published.npz", folder / "model.keras", "--system", "MaskScoringRCNN"]
    arguments += ["--backbone", "resnet18", "--categories", folder / "five.json"]
    assert main(["convert", *map(str, arguments)]) == 0
    (folder / "pictures").mkdir()
    for seed in range(3):
        image = coarse(400, 400 + 64 * seed, seed)
        (folder / "pictures" / f"{seed}.png").write_bytes(encoded(image, "PNG"))
    return folder / "model.keras", folder / "pictures"


@pytest.mark.parametrize("script", PACKAGES)
def test_a_converted_model_is_exported(converted, script, tmp_path):
    if not importlib.util.find_spec(PACKAGES[script]):
        pytest.skip(f"needs {PACKAGES[script]}")
    model, pictures = converted
    out = tmp_path / f"out.{script}"
    command = [sys.executable, ROOT / "export" / f"{script}.py", model, out, "--pictures", pictures]
    command += ["--max-detections", "10"]
    if script != "saved_model":
        command += ["--size", "128", "160"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    report = json.loads(pathlib.Path(f"{out}.parity.json").read_text())
    assert report["objects"] >= 30 and report["unmatched"] == 0 and report["problems"] == []
