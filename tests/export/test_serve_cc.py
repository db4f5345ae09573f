"""The C++ example builds as its head says and prints what `pac_keras.predict` finds."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import saved_model
from PIL import Image

from pac_keras import MaskRCNN, predict
from pac_keras.data import Preprocessing

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = ROOT / "export" / "examples" / "serve.cc"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's format"
    ),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler, g++"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Path of the program, built as the head of its source says."""
    out = tmp_path_factory.mktemp("program") / "serve"
    told = re.search(r"^    TF=.*\n    g\+\+ (.*\\\n)+.*", SOURCE.read_text(), re.MULTILINE)[0]
    command = told.replace("-o serve ", f"-o {out} ")
    assert command != told
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", command], cwd=ROOT, env=os.environ | {"PATH": path}, check=True)
    return out


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, folder of its SavedModel)."""
    keras.utils.set_random_seed(1)
    sizes = {"base_channels": 8, "channels": 8, "fc_channels": 16, "max_detections": 10}
    sizes |= {"pre_nms": (50, 50), "max_proposals": (40, 30)}
    model = MaskRCNN(2, backbone="resnet18", frozen_stages=0, norm="batch", **sizes)
    model.preprocessing = Preprocessing(short_side=64, long_side=96)
    model.categories = ((3, "cat"), (7, "polar bär"))
    folder = tmp_path_factory.mktemp("export") / "out"
    saved_model.write(model, folder)
    return model, folder


def run(program, *arguments):
    command = [str(argument) for argument in (program, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def test_it_prints_what_predict_finds(program, exported, tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (7, 12, 3))
    image = np.kron(coarse, np.ones((8, 8, 1)))[:50, :90].astype("uint8")
    Image.fromarray(image).save(tmp_path / "a.jpg")
    expected = predict(exported[0], tmp_path / "a.jpg", score_threshold=0.0)
    done = run(program, exported[1], tmp_path / "a.jpg")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 10 and tuple(row[0] for row in rows) == expected.names
    numbers = np.asarray([row[1:] for row in rows], float)
    np.testing.assert_allclose(numbers[:, 0], expected.scores, atol=1e-5)
    np.testing.assert_allclose(numbers[:, 1:5], expected.boxes, atol=0.01)
    areas = expected.masks.sum(axis=(1, 2))
    assert areas.min() < 0.9 * areas.max()
    np.testing.assert_allclose(numbers[:, 5], areas, atol=1e-3 * image.shape[0] * image.shape[1])


def test_it_says_what_cannot_be_read(program, exported):
    done = run(program, exported[1], SOURCE)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{SOURCE}: not a JPEG, PNG" in done.stderr.splitlines()[-1]
    done = run(program, exported[1], exported[1] / "none.jpg")
    assert done.returncode == 1 and "none.jpg: cannot be read" in done.stderr
    done = run(program, exported[1].parent / "none", SOURCE)
    assert done.returncode == 1 and "Could not find SavedModel" in done.stderr
    assert run(program).returncode == 2
