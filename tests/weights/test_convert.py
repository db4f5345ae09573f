"""Checkpoints as ready models, and as a start for other classes."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import pac_keras
from pac_keras.__main__ import main
from pac_keras.weights import load_backbone, load_maskrcnn, start_from, to_mmdet
from pac_keras.weights.convert import convert
from tests.parity.fixture import Fixture
from tests.parity.systems import build

_DATA = Path(__file__).parents[1] / "data"
_SMALL = {"base_channels": 16, "channels": 32, "fc_channels": 64}


@pytest.fixture(scope="module")
def fixture():
    return Fixture(_DATA / "ms_rcnn_reference.npz")


@pytest.fixture(scope="module")
def checkpoint(fixture, tmp_path_factory):
    """An .npz of the fixture's weights, named as published files name them."""
    path = tmp_path_factory.mktemp("weights") / "ms_rcnn.npz"
    np.savez(path, **{name.removeprefix("w/"): fixture[name] for name in fixture.under("w/")})
    return path


@pytest.fixture
def categories(tmp_path):
    path = tmp_path / "five.json"
    five = [{"id": 3 * i, "name": f"thing {i}"} for i in range(5, 0, -1)]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": five}))
    return path


def test_the_command_writes_a_model_that_loads_and_computes_the_same(
    checkpoint, categories, fixture, tmp_path
):
    out = tmp_path / "model.keras"
    options = ["--system", "MaskScoringRCNN", "--backbone", "resnet18"]
    options += ["--categories", str(categories)]
    assert main(["convert", str(checkpoint), str(out), *options]) == 0
    model = keras.models.load_model(out)
    assert model.categories == tuple((3 * i, f"thing {i}") for i in range(1, 6))
    assert model.sampling_ratio == 0
    assert model.preprocessing.std == (58.395, 57.12, 57.375)
    reference = build(fixture)
    pixels = fixture["in/img"].transpose(0, 2, 3, 1)
    pyramids = [m.pyramid(m.backbone(pixels)) for m in (model, reference)]
    for level in (2, 6):
        ours, theirs = (ops.convert_to_numpy(pyramid[level]) for pyramid in pyramids)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--system", "MaskRCN"), "system.*MaskRCN"),
        (("--system", "MaskScoringRCNN", "--backbone", "resnet18"), "5 classes.*--categories"),
        (("--system", "MaskScoringRCNN"), "does not fit MaskScoringRCNN.*missing"),
        (("--system", "HTC", "--backbone", "resnet18"), "does not fit HTC"),
    ],
)
def test_a_wrong_choice_is_told_and_nothing_is_written(
    checkpoint, tmp_path, capsys, options, message
):
    out = tmp_path / "model.keras"
    assert main(["convert", str(checkpoint), str(out), *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


def test_other_classes_start_anew_and_all_else_is_loaded(checkpoint, tmp_path):
    model = pac_keras.MaskScoringRCNN(7, "resnet18", **_SMALL)
    first = ops.convert_to_numpy(model.stage.head.classes.kernel)
    new = start_from(model, checkpoint)
    layers = model.stage.head.classes, model.stage.head.deltas
    layers += model.mask_heads[0].logits, model.quality.quality
    assert sorted(new) == sorted(v.path for layer in layers for v in layer.weights)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.stage.head.classes.kernel), first)
    tensors = np.load(checkpoint)
    kernel = ops.convert_to_numpy(model.rpn.shared.kernel).transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kernel, tensors["rpn_head.rpn_conv.weight"])
    model.save(tmp_path / "seven.keras")
    other = pac_keras.MaskScoringRCNN(9, "resnet18", **_SMALL)
    again = start_from(other, tmp_path / "seven.keras")
    assert len(again) == len(new)
    found, expected = (ops.convert_to_numpy(m.rpn.shared.kernel) for m in (other, model))
    np.testing.assert_array_equal(found, expected)
    same = pac_keras.MaskScoringRCNN(7, "resnet18", **_SMALL)
    assert start_from(same, tmp_path / "seven.keras") == []


def test_another_width_or_system_is_no_start(checkpoint, tmp_path):
    wide = pac_keras.MaskScoringRCNN(7, "resnet18", **(_SMALL | {"channels": 40}))
    with pytest.raises(ValueError, match=r"ms_rcnn\.npz: neck\.lateral_convs.*another shape"):
        start_from(wide, checkpoint)
    wide.save(tmp_path / "wide.keras")
    with pytest.raises(ValueError, match=r"wide\.keras: expected a MaskRCNN"):
        start_from(pac_keras.MaskRCNN(7, "resnet18", **_SMALL), tmp_path / "wide.keras")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        start_from(wide, tmp_path / "absent.pth")


def torchvision_names(tensors):
    """A MaskRCNN's tensors as torchvision names and orders them."""
    parts = {
        "backbone.": "backbone.body.",
        "neck.lateral_convs.": "backbone.fpn.inner_blocks.",
        "neck.fpn_convs.": "backbone.fpn.layer_blocks.",
        "rpn_head.rpn_conv.": "rpn.head.conv.0.0.",
        "rpn_head.rpn_cls.": "rpn.head.cls_logits.",
        "rpn_head.rpn_reg.": "rpn.head.bbox_pred.",
        "roi_head.bbox_head.shared_fcs.0.": "roi_heads.box_head.fc6.",
        "roi_head.bbox_head.shared_fcs.1.": "roi_heads.box_head.fc7.",
        "roi_head.bbox_head.fc_cls.": "roi_heads.box_predictor.cls_score.",
        "roi_head.bbox_head.fc_reg.": "roi_heads.box_predictor.bbox_pred.",
        "roi_head.mask_head.convs.": "roi_heads.mask_head.",
        "roi_head.mask_head.upsample.": "roi_heads.mask_predictor.conv5_mask.",
        "roi_head.mask_head.conv_logits.": "roi_heads.mask_predictor.mask_fcn_logits.",
    }
    renamed = {}
    for name, value in tensors.items():
        ours = next(part for part in parts if name.startswith(part))
        theirs = parts[ours] + name.removeprefix(ours)
        if "fc_cls" in name:
            value = np.concatenate([value[-1:], value[:-1]])
        elif "fc_reg" in name:
            value = np.concatenate([np.full_like(value[:4], np.nan), value])
        elif "conv_logits" in name:
            value = np.concatenate([np.full_like(value[:1], np.nan), value])
        in_block = theirs.startswith(("backbone.fpn", "roi_heads.mask_head."))
        theirs = theirs.replace(".conv.", ".0.") if in_block else theirs
        renamed[theirs] = value
    return {name: x for name, x in renamed.items() if not name.endswith("tracked")}


def test_torchvision_s_mask_rcnn_and_its_backbone():
    keras.utils.set_random_seed(0)
    model, other = (pac_keras.MaskRCNN(5, "resnet18", **_SMALL) for _ in range(2))
    tensors = torchvision_names(to_mmdet(model))
    assert "backbone.fpn.inner_blocks.3.0.weight" in tensors
    report = load_maskrcnn(other, tensors)
    assert len(report.loaded) == len(tensors)
    assert start_kernel(model) == start_kernel(other)
    for name, value in to_mmdet(other).items():
        np.testing.assert_array_equal(value, to_mmdet(model)[name], err_msg=name)
    imagenet = {
        name.removeprefix("backbone.body."): value + 1
        for name, value in tensors.items()
        if name.startswith("backbone.body.")
    }
    load_backbone(other, imagenet | {"fc.weight": np.zeros((1000, 128))})
    assert start_kernel(other) == pytest.approx(start_kernel(model) + 1)


def start_kernel(model):
    return float(ops.convert_to_numpy(model.backbone.stem.convolution.kernel)[0, 0, 0, 0])


def test_htc_without_semantic_branch():
    model = pac_keras.HTC(80, "resnet18", semantic="none", **_SMALL)
    assert convert(to_mmdet(model), "HTC", "resnet18").semantic is None


@pytest.mark.parametrize(
    ("system", "arguments"),
    [
        ("SCNet", {"num_semantic_classes": 17}),
        ("RefineMask", {}),
        ("RefineMask", {"class_agnostic_last": True}),
        ("RefineMask", {"variant": "simple"}),
    ],
)
def test_heads_are_read_off_the_checkpoint(system, arguments):
    model = getattr(pac_keras, system)(80, "resnet18", **_SMALL, **arguments)
    expected = to_mmdet(model)
    found = convert(expected, system, "resnet18")
    config = found.get_config()
    assert {name: config[name] for name in arguments} == arguments
    written = to_mmdet(found)
    assert written.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)


def test_a_relay_s_rows_are_channels_first():
    """Its bias draws 7 x 7 cells: ours cell by cell, theirs channel by channel."""
    model = pac_keras.MaskRCNN(3, "resnet18", feature_relay=True, **_SMALL)
    cells = np.arange(49, dtype="float32")[:, None] + 1000 * np.arange(32, dtype="float32")
    model.relay.dense.bias.assign(cells.ravel())
    found = to_mmdet(model)["roi_head.feat_relay_head.fc.bias"].reshape(32, 49)
    np.testing.assert_array_equal(found, cells.T)


def test_parts_that_no_published_checkpoint_has_are_told():
    model = pac_keras.PAC(5, "resnet18", num_semantic_classes=6, **_SMALL)
    with pytest.raises(ValueError, match=r"FusedSemanticHead.*AtrousSemanticHead"):
        to_mmdet(model)


def test_caffe_networks_take_red_first():
    model = pac_keras.MaskRCNN(5, "resnet50_caffe", **_SMALL)
    tensors = to_mmdet(model)
    kernel = ops.convert_to_numpy(model.backbone.stem.convolution.kernel)
    np.testing.assert_array_equal(
        tensors["backbone.conv1.weight"][:, 0], kernel[..., 2, :].transpose(2, 0, 1)
    )


def test_coco_s_own_categories():
    model = pac_keras.MaskRCNN(80, "resnet18", **_SMALL)
    found = convert(to_mmdet(model), backbone="resnet18").categories
    assert len(found) == 80
    assert found[0] == (1, "person")
    assert found[-1] == (90, "toothbrush")
