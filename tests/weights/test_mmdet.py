"""Reading and writing mmdetection's checkpoints."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from pac_keras.weights import load_mmdet, to_mmdet
from tests.parity.fixture import Fixture
from tests.parity.systems import build

_FIXTURE = Path(__file__).parents[1] / "data" / "ms_rcnn_reference.npz"


@pytest.fixture(scope="module")
def fixture():
    return Fixture(_FIXTURE)


@pytest.fixture(scope="module")
def model(fixture):
    return build(fixture)


@pytest.fixture
def checkpoint(fixture):
    return {name.removeprefix("w/"): fixture[name] for name in fixture.under("w/")}


def test_the_way_there_and_back_is_exact(model, checkpoint, tmp_path):
    written = to_mmdet(model)
    assert written.keys() == checkpoint.keys()
    for name, value in checkpoint.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)
    np.savez(tmp_path / "model.npz", **written)
    other = keras.models.clone_model(model)
    report = load_mmdet(other, tmp_path / "model.npz")
    assert not report.missing
    assert not report.unused
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        if "seed" not in ours.path:
            ours, theirs = ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs)
            np.testing.assert_array_equal(ours, theirs)


def test_names_of_parallel_training_are_read(model, checkpoint):
    report = load_mmdet(model, {f"module.{name}": value for name, value in checkpoint.items()})
    assert len(report.loaded) == len([name for name in checkpoint if "tracked" not in name])


def test_missing_and_unknown_names_are_told_and_nothing_is_loaded(model, checkpoint):
    before = ops.convert_to_numpy(model.stage.head.classes.kernel)
    checkpoint = {name: value + 1 for name, value in checkpoint.items()}
    del checkpoint["neck.fpn_convs.1.conv.bias"]
    checkpoint["roi_head.extra.weight"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"fpn_convs\.1\.conv\.bias.*roi_head\.extra"):
        load_mmdet(model, checkpoint)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.stage.head.classes.kernel), before)


def test_a_partial_load_has_to_be_asked_for(model, checkpoint, fixture):
    del checkpoint["neck.fpn_convs.1.conv.bias"]
    checkpoint["roi_head.extra.weight"] = np.zeros(3)
    report = load_mmdet(model, checkpoint, partial=True)
    assert report.missing == ["neck.fpn_convs.1.conv.bias"]
    assert report.unused == ["roi_head.extra.weight"]
    assert str(report).endswith("missing: 1, unused: 1")
    assert len(report.loaded) > 100


def test_another_shape_is_refused_with_its_name(model, checkpoint):
    before = ops.convert_to_numpy(model.stage.head.classes.kernel)
    checkpoint = {name: value + 1 for name, value in checkpoint.items()}
    checkpoint["rpn_head.rpn_cls.weight"] = np.zeros((9, 32, 1, 1))
    with pytest.raises(ValueError, match=r"rpn_head\.rpn_cls\.weight.*\(3, 32, 1, 1\).*\(9, 32"):
        load_mmdet(model, checkpoint, partial=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.stage.head.classes.kernel), before)


def test_files_that_cannot_be_read_are_named(model, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        load_mmdet(model, tmp_path / "absent.npz")
    (tmp_path / "weights.h5").write_bytes(b"")
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"weights\.pth.*pip install torch"):
        load_mmdet(model, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.h5.*\.pth"):
        load_mmdet(model, tmp_path / "weights.h5")
