"""RDSNet's checkpoints: there and back, as ready models, as a start; MBRM's numbers among them."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import pac_keras
from pac_keras.__main__ import main
from pac_keras.heads import mbrm
from pac_keras.weights import load_mmdet, start_from, to_mmdet
from pac_keras.weights.convert import convert
from pac_keras.weights.names import names

_REFERENCE = Path(__file__).parents[1] / "data" / "rdsnet_reference.npz"
_SMALL = {"base_channels": 16, "channels": 32, "rep_channels": 8, "num_convs": 2}
_MBRM = ("mbrm.weight", "mbrm.bias")


def build(num_classes=5, **arguments):
    return pac_keras.RDSNet(num_classes, "resnet18", **(_SMALL | arguments))


@pytest.fixture(scope="module")
def checkpoint():
    """A whole model's tensors without MBRM's, as published; its heads are the reference's."""
    keras.utils.set_random_seed(0)
    tensors = to_mmdet(build())
    with np.load(_REFERENCE) as reference:
        for group, prefix in (("head/w/", "bbox_head."), ("mask_head/w/", "mask_head.")):
            for name in reference.files:
                if name.startswith(group):
                    theirs = prefix + name.removeprefix(group)
                    assert tensors[theirs].shape == reference[name].shape
                    tensors[theirs] = reference[name]
    return {name: value for name, value in tensors.items() if name not in _MBRM}


def kernel(model):
    return ops.convert_to_numpy(model.refinement.kernel)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_way_there_and_back_is_exact_and_brings_the_published_refinement(checkpoint):
    model = build()
    report = load_mmdet(model, checkpoint)
    assert not report.missing
    assert not report.unused
    np.testing.assert_array_equal(kernel(model), np.float32(mbrm.PUBLISHED))
    bias = ops.convert_to_numpy(model.refinement.bias)
    np.testing.assert_array_equal(bias, np.float32([mbrm.PUBLISHED_BIAS]))
    written = to_mmdet(model)
    with np.load(_REFERENCE) as reference:
        own = {name: reference[name.replace(".", "/")] for name in _MBRM}
    assert_same(written, checkpoint | own)


def test_a_refinement_of_one_s_own_is_not_lost(checkpoint):
    model, other = build(), build()
    load_mmdet(model, checkpoint)
    model.refinement.kernel.assign(np.arange(9, dtype="float32"))
    model.refinement.bias.assign([2.5])
    written = to_mmdet(model)
    np.testing.assert_array_equal(written["mbrm.weight"], np.arange(9.0).reshape(1, 1, 9))
    load_mmdet(other, written)
    assert_same(to_mmdet(other), written)
    plain = build(box_refinement="none")
    with pytest.raises(ValueError, match=r"unused: 2.*mbrm\.weight"):
        load_mmdet(plain, written)
    load_mmdet(plain, checkpoint)
    assert_same(to_mmdet(plain), checkpoint)


def test_a_part_of_a_checkpoint_brings_no_refinement(checkpoint):
    model = build()
    before = kernel(model)
    backbone = {name: x for name, x in checkpoint.items() if name.startswith("backbone.")}
    report = load_mmdet(model, backbone, partial=True)
    assert set(_MBRM) <= set(report.missing)
    np.testing.assert_array_equal(kernel(model), before)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"num_convs": 3, "rep_channels": 4}, {"rep_background": False}],
)
def test_sizes_are_read_off_the_shapes(arguments):
    model = build(80, **arguments)
    found = convert(to_mmdet(model), "RDSNet", "resnet18")
    assert_same(to_mmdet(found), to_mmdet(model))
    config = found.get_config()
    expected = _SMALL | {"rep_background": True, "legacy": True, "num_classes": 80} | arguments
    assert {name: config[name] for name in expected} == expected
    assert found.preprocessing.std == (58.395, 57.12, 57.375)
    assert found.categories[-1] == (90, "toothbrush")


def test_the_command_writes_a_model_that_loads(tmp_path, capsys):
    tensors = to_mmdet(build(80))
    np.savez(tmp_path / "rdsnet.npz", **{n: x for n, x in tensors.items() if n not in _MBRM})
    paths = [str(tmp_path / name) for name in ("rdsnet.npz", "model.keras")]
    options = ["--system", "RDSNet", "--backbone", "resnet18"]
    assert main(["convert", *paths, *options]) == 0
    assert "RDSNet, 80 classes" in capsys.readouterr().out
    model = keras.models.load_model(paths[1])
    np.testing.assert_array_equal(kernel(model), np.float32(mbrm.PUBLISHED))
    assert model.get_config()["legacy"]
    np.savez(tmp_path / "rdsnet.npz", **{"conv1.weight": np.zeros(3)})
    assert main(["convert", paths[0], str(tmp_path / "other.keras"), *options]) == 2
    assert "rdsnet.npz: expected a detector's weights" in capsys.readouterr().err


def test_other_classes_start_anew_and_all_else_is_loaded(checkpoint, tmp_path):
    path = tmp_path / "rdsnet.npz"
    np.savez(path, **checkpoint)
    model = build(7, trained_part="box_refinement")
    first = ops.convert_to_numpy(model.head.classes.kernel)
    assert sorted(start_from(model, path)) == sorted(v.path for v in model.head.classes.weights)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.head.classes.kernel), first)
    np.testing.assert_array_equal(kernel(model), np.float32(mbrm.PUBLISHED))
    written = to_mmdet(model)
    same = [name for name in checkpoint if "retina_cls" not in name]
    assert_same({n: written[n] for n in same}, {n: checkpoint[n] for n in same})
    with pytest.raises(ValueError, match=r"rdsnet\.npz: .*retina_rep.*another shape"):
        start_from(build(rep_background=False), path)


def test_rdsnet_s_has_no_published_names():
    model = pac_keras.RDSNetS(5, "resnet18", base_channels=16, channels=32, rep_channels=8)
    with pytest.raises(ValueError, match=r"RDSNetS.*published"):
        names(model)
