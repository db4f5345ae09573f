"""Names and shapes at the papers' size: the published checkpoints' layout."""

import gc

import numpy as np
import pytest

import pac_keras
from pac_keras.weights import to_mmdet
from pac_keras.weights.names import names
from tests.builders import count_weights

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
BLOCKS |= {f"resnext101_{kind}": (3, 4, 23, 3) for kind in ("32x4d", "64x4d")}
GROUPS = {"resnext101_32x4d": (32, 2), "resnext101_64x4d": (64, 4)}  # and width over planes
SYSTEMS = ("MaskRCNN", "CascadeMaskRCNN", "MaskScoringRCNN", "HTC", "SCNet", "RefineMask", "RDSNet")
TENSORS = dict(zip(SYSTEMS, (360, 400, 374, 426, 426), strict=False))  # of R50, where published
PARAMETERS = {
    ("MaskRCNN", "resnet50"): 44_396_336,
    ("MaskRCNN", "resnet101"): 63_388_464,
    ("MaskRCNN", "resnext101_32x4d"): 63_017_008,
    ("MaskRCNN", "resnext101_64x4d"): 102_294_576,
    ("CascadeMaskRCNN", "resnet50"): 77_324_606,
    ("CascadeMaskRCNN", "resnet101"): 96_316_734,
    ("CascadeMaskRCNN", "resnext101_32x4d"): 95_945_278,
    ("CascadeMaskRCNN", "resnext101_64x4d"): 135_222_846,
    ("MaskScoringRCNN", "resnet50"): 60_736_640,
    ("MaskScoringRCNN", "resnet101"): 79_728_768,
    ("MaskScoringRCNN", "resnext101_32x4d"): 79_357_312,
    ("HTC", "resnet50"): 80_258_293,
    ("HTC", "resnext101_32x4d"): 98_878_965,
    ("SCNet", "resnet50"): 94_799_269,
    ("SCNet", "resnet101"): 113_791_397,
    ("SCNet", "resnext101_32x4d"): 113_419_941,
    ("SCNet", "resnext101_64x4d"): 152_697_509,
    ("RefineMask", "resnet50"): 48_160_059,
    ("RefineMask", "resnet101"): 67_152_187,
    ("RefineMask", "resnext101_32x4d"): 66_780_731,
    ("RDSNet", "resnet50"): 44_619_668,  # without MBRM, which is in no checkpoint
    ("RDSNet", "resnet101"): 63_611_796,
}
MBRM = {"mbrm.weight": (1, 1, 9), "mbrm.bias": (1,)}
FAST = {(system, "resnet50") for system in ("MaskRCNN", "SCNet", "RefineMask", "RDSNet")}
CASES = [(system, backbone) for system in SYSTEMS for backbone in BLOCKS]


def norm(name, channels):
    fields = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{field}": (channels,) for field in fields}


def layer(name, *shape):
    """Weight and bias; the bias is as long as the weight's first axis."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def backbone(kind):
    groups, factor = GROUPS.get(kind, (1, 1))
    table = {"backbone.conv1.weight": (64, 3, 7, 7)} | norm("backbone.bn1", 64)
    channels = 64
    for stage, blocks in enumerate(BLOCKS[kind], start=1):
        planes = 64 * 2 ** (stage - 1)
        width, out = planes * factor, planes * 4
        for block in range(blocks):
            start = f"backbone.layer{stage}.{block}."
            kernels = (width, channels, 1, 1), (width, width // groups, 3, 3), (out, width, 1, 1)
            for i, kernel in enumerate(kernels, start=1):
                table |= {f"{start}conv{i}.weight": kernel} | norm(f"{start}bn{i}", kernel[0])
            if block == 0:
                table[f"{start}downsample.0.weight"] = (out, channels, 1, 1)
                table |= norm(f"{start}downsample.1", out)
            channels = out
    return table


def pyramid_and_rpn():
    table = {}
    for i, channels in enumerate((256, 512, 1024, 2048)):
        table |= layer(f"neck.lateral_convs.{i}.conv", 256, channels, 1, 1)
        table |= layer(f"neck.fpn_convs.{i}.conv", 256, 256, 3, 3)
    table |= layer("rpn_head.rpn_conv", 256, 256, 3, 3)
    return (
        table | layer("rpn_head.rpn_cls", 3, 256, 1, 1) | layer("rpn_head.rpn_reg", 12, 256, 1, 1)
    )


def box_head(prefix, deltas):
    table = layer(f"{prefix}shared_fcs.0", 1024, 12544) | layer(f"{prefix}shared_fcs.1", 1024, 1024)
    return table | layer(f"{prefix}fc_cls", 81, 1024) | layer(f"{prefix}fc_reg", deltas, 1024)


def blocks(prefix, count):
    """SCNet's pairs of convolutions."""
    table = {}
    for i in range(count):
        for number in (1, 2):
            table |= layer(f"{prefix}convs.{i}.conv{number}", 256, 256, 3, 3)
    return table


def convs(prefix, count):
    table = {}
    for i in range(count):
        table |= layer(f"{prefix}{i}.conv", 256, 256, 3, 3)
    return table


def mask_head(prefix, deep=False):
    table = blocks(prefix, 6) if deep else convs(f"{prefix}convs.", 4)
    table |= {f"{prefix}upsample.weight": (256, 256, 2, 2), f"{prefix}upsample.bias": (256,)}
    return table | layer(f"{prefix}conv_logits", 80, 256, 1, 1)


def semantic_head(deep=False):
    prefix, table = "roi_head.semantic_head.", {}
    for i in range(5):
        table |= layer(f"{prefix}lateral_convs.{i}.conv", 256, 256, 1, 1)
    table |= blocks(prefix, 2) if deep else convs(f"{prefix}convs.", 4)
    table |= layer(f"{prefix}conv_embedding.conv", 256, 256, 1, 1)
    return table | layer(f"{prefix}conv_logits", 183, 256, 1, 1)


def refine_mask_head(simple=False):
    prefix = "roi_head.mask_head."
    table = convs(f"{prefix}instance_convs.", 2) | convs(f"{prefix}semantic_convs.", 4)
    if not simple:
        table |= layer(f"{prefix}semantic_logits", 1, 256, 1, 1)
    for k, c in enumerate((256, 128, 64)):
        stage, guides = f"{prefix}stages.{k}.", 1 if simple else 2
        table |= layer(f"{stage}semantic_transform_in", c, 256, 1, 1)
        table |= layer(f"{stage}fuse_conv.0", c, 2 * c + guides, 1, 1)
        for i in (1, 2, 3):
            table |= layer(f"{stage}fuse_conv.1.dilation_conv_{i}.conv", c, c, 3, 3)
        table |= layer(f"{stage}fuse_conv.1.merge_conv.conv", c, c, 1, 1)
        table |= layer(f"{stage}fuse_transform_out", c // 2 - guides, c, 1, 1)
        if simple:
            table |= layer(f"{prefix}stage_instance_logits.{k}", 80, c, 1, 1)
        else:
            table |= layer(f"{stage}semantic_transform_out", c, c, 1, 1)
            table |= layer(f"{stage}instance_logits", 80, c, 1, 1)
    if simple:
        return table | layer(f"{prefix}stage_instance_logits.3", 1, 32, 1, 1)
    return table | layer(f"{prefix}final_instance_logits", 80, 32, 1, 1)


def group_norm_convs(prefix, numbers):
    table = {}
    for i in numbers:
        table[f"{prefix}{i}.conv.weight"] = (256, 256, 3, 3)
        table |= {f"{prefix}{i}.gn.{field}": (256,) for field in ("weight", "bias")}
    return table


def rdsnet():
    table = {}
    for i, channels in enumerate((512, 1024, 2048)):
        table |= layer(f"neck.lateral_convs.{i}.conv", 256, channels, 1, 1)
    for i, channels in enumerate((256, 256, 256, 2048, 256)):
        table |= layer(f"neck.fpn_convs.{i}.conv", 256, channels, 3, 3)
    for kind, filters in (("cls", 720), ("reg", 36), ("rep", 576)):
        table |= group_norm_convs(f"bbox_head.{kind}_convs.", range(4))
        table |= layer(f"bbox_head.retina_{kind}", filters, 256, 3, 3)
    for i, numbers in enumerate(((0,), (0,), (0, 2))):
        table |= group_norm_convs(f"mask_head.lateral_convs.{i}.", numbers)
    table |= group_norm_convs("mask_head.final_convs.0.", (0,))
    return table | layer("mask_head.conv_reps", 32, 256, 1, 1)


def layout(system, kind, simple=False):
    """{name: shape} without the counters of batches."""
    if system == "RDSNet":
        return backbone(kind) | rdsnet()
    table = backbone(kind) | pyramid_and_rpn()
    if system == "RefineMask":
        return table | box_head("roi_head.bbox_head.", 320) | refine_mask_head(simple)
    if system == "SCNet":
        for i in range(3):
            table |= box_head(f"roi_head.bbox_head.{i}.", 4)
        table |= mask_head("roi_head.mask_head.", deep=True) | semantic_head(deep=True)
        table |= blocks("roi_head.glbctx_head.", 2) | layer("roi_head.glbctx_head.fc", 80, 256)
        return table | layer("roi_head.feat_relay_head.fc", 12544, 1024)
    if system in ("MaskRCNN", "MaskScoringRCNN"):
        table |= box_head("roi_head.bbox_head.", 320) | mask_head("roi_head.mask_head.")
    else:
        for i in range(3):
            table |= box_head(f"roi_head.bbox_head.{i}.", 4) | mask_head(f"roi_head.mask_head.{i}.")
    if system == "HTC":
        for i in (1, 2):
            table |= layer(f"roi_head.mask_head.{i}.conv_res.conv", 256, 256, 1, 1)
        table |= semantic_head()
    if system == "MaskScoringRCNN":
        prefix = "roi_head.mask_iou_head."
        for i in range(4):
            table |= layer(f"{prefix}convs.{i}", 256, 256 if i else 257, 3, 3)
        table |= layer(f"{prefix}fcs.0", 1024, 12544) | layer(f"{prefix}fcs.1", 1024, 1024)
        table |= layer(f"{prefix}fc_mask_iou", 80, 1024)
    return table


@pytest.mark.parametrize(
    ("system", "kind"),
    [pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow]) for case in CASES],
)
def test_names_and_shapes_are_the_published_ones(system, kind):
    """python -m pytest -m slow tests/weights"""
    model = getattr(pac_keras, system)(80, kind)
    expected = layout(system, kind)
    own = MBRM if system == "RDSNet" else {}
    assert {name: tensor.shape() for name, tensor in names(model).items()} == expected | own
    if kind == "resnet50" and system in TENSORS:
        assert len(to_mmdet(model)) == TENSORS[system]
    learned = {n: shape for n, shape in expected.items() if "running" not in n}
    if (system, kind) in PARAMETERS:
        assert sum(map(np.prod, learned.values())) == PARAMETERS[system, kind]
    del model
    gc.collect()


@pytest.mark.slow
def test_refinemasks_simple_head():
    model = pac_keras.RefineMask(80, "resnet50", variant="simple")
    expected = layout("RefineMask", "resnet50", simple=True)
    assert {name: tensor.shape() for name, tensor in names(model).items()} == expected
    learned = [np.prod(shape) for name, shape in expected.items() if "running" not in name]
    assert sum(learned) == 48_070_734


@pytest.mark.slow
def test_rdsnet_s_has_as_many_weights_as_the_fact_sheet_counts():
    """YOLACT's 54,285,839 in mmdetection, and 3 x 32 vectors per cell more."""
    assert count_weights(pac_keras.RDSNetS(80, "resnet101")) == 54_507_119
