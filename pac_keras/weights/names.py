"""Which tensor of mmdetection's checkpoints is which variable of ours: one table per part.

RefineMask's, SCNet's and RDSNet's own public codes, forks of mmdetection, name theirs alike.
"""

from pac_keras.backbone.resnet import ResNet
from pac_keras.heads.refine_mask import MultiBranchFusion
from pac_keras.heads.semantic import FusedSemanticHead
from pac_keras.systems.rdsnet import RDSNet
from pac_keras.systems.rdsnet_s import RDSNetS
from pac_keras.systems.refinemask import RefineMask
from pac_keras.weights import rdsnet, tables
from pac_keras.weights.tables import Tensor

_SIDE = 7  # of the maps that dense layers flatten, or draw


def names(model):
    """{name in mmdetection: Tensor} of all weights of a model.

    Raises:
        ValueError: the model has a part that mmdetection has not.
    """
    if isinstance(model, RDSNetS):
        raise ValueError("RDSNetS: nobody has published weights of it, so there are no names")
    table = backbone(model.backbone, "backbone.")
    if isinstance(model, RDSNet):
        return table | rdsnet.detector(model)
    table |= _pyramid(model.pyramid) | _rpn(model.rpn)
    stages = model.stages if hasattr(model, "stages") else [model.stage]
    table |= _numbered(_box_head, stages, "roi_head.bbox_head.")
    if isinstance(model, RefineMask):
        return table | refine_mask_head(model.mask_head, model.semantic)
    table |= _numbered(_mask_head, model.mask_heads, "roi_head.mask_head.")
    relays = getattr(model, "relays", [getattr(model, "relay", None)])
    table |= _numbered(_relay, [x for x in relays if x is not None], "roi_head.feat_relay_head.")
    for attribute, part in _PARTS.items():
        if getattr(model, attribute, None) is not None:
            table |= part(getattr(model, attribute))
    return table


def _numbered(part, owners, prefix):
    """The tables of `owners`; where there are several, their names have a number."""
    table = {}
    for i, owner in enumerate(owners):
        table |= part(owner, f"{prefix}{i}." if len(owners) > 1 else prefix)
    return table


def backbone(resnet, prefix):
    """Names of a ResNet, as torchvision's and mmdetection's.

    Published networks of the caffe style, whose first 1x1 convolution has the stride, take BGR.
    """
    tables.check_part(resnet, ResNet)
    table = tables.conv_norm(resnet.stem, f"{prefix}conv1", f"{prefix}bn1")
    table[f"{prefix}conv1.weight"] = Tensor(resnet.stem.convolution.kernel, bgr=resnet.stride_first)
    counts = {}
    for block, level in zip(resnet.blocks, resnet.block_levels, strict=True):
        number = counts[level] = counts.get(level, -1) + 1
        start = f"{prefix}layer{level - 1}.{number}."
        for i, part in enumerate(block.convolutions(), start=1):
            table |= tables.conv_norm(part, f"{start}conv{i}", f"{start}bn{i}")
        if block.shortcut is not None:
            table |= tables.conv_norm(
                block.shortcut, f"{start}downsample.0", f"{start}downsample.1"
            )
    return table


def _pyramid(fpn):
    return tables.series(fpn.lateral, "neck.lateral_convs.{}.conv") | tables.series(
        fpn.output_convs, "neck.fpn_convs.{}.conv"
    )


def _rpn(rpn):
    return (
        tables.layer(rpn.shared, "rpn_head.rpn_conv")
        | tables.layer(rpn.objectness, "rpn_head.rpn_cls")
        | tables.layer(rpn.deltas, "rpn_head.rpn_reg")
    )


def _box_head(stage, prefix):
    head = stage.head
    return (
        _dense_after_map(head.dense[0], f"{prefix}shared_fcs.0")
        | tables.layer(head.dense[1], f"{prefix}shared_fcs.1")
        | tables.layer(head.classes, f"{prefix}fc_cls")
        | tables.layer(head.deltas, f"{prefix}fc_reg")
    )


def _mask_head(head, prefix):
    table = tables.stack(head.convs, prefix + "convs.{}.conv")
    table |= tables.layer(head.upsample, f"{prefix}upsample") | tables.layer(
        head.logits, f"{prefix}conv_logits"
    )
    if head.relay is not None:
        table |= tables.layer(head.relay, f"{prefix}conv_res.conv")
    return table


def _semantic_head(head):
    tables.check_part(head, FusedSemanticHead)
    prefix = "roi_head.semantic_head."
    return (
        tables.series(head.lateral, prefix + "lateral_convs.{}.conv")
        | tables.stack(head.convs, prefix + "convs.{}.conv")
        | tables.layer(head.embedding, f"{prefix}conv_embedding.conv")
        | tables.layer(head.logits, f"{prefix}conv_logits")
    )


def _quality_head(head):
    prefix = "roi_head.mask_iou_head."
    return (
        tables.series([*head.convs, head.last_conv], prefix + "convs.{}")
        | _dense_after_map(head.dense[0], f"{prefix}fcs.0")
        | tables.layer(head.dense[1], f"{prefix}fcs.1")
        | tables.layer(head.quality, f"{prefix}fc_mask_iou")
    )


def _context_head(head):
    prefix = "roi_head.glbctx_head."
    return tables.stack(head.convs, prefix + "convs.{}.conv") | tables.layer(
        head.classes, f"{prefix}fc"
    )


_PARTS = {"semantic": _semantic_head, "quality": _quality_head, "context": _context_head}


def _relay(relay, prefix):
    drawn = relay.channels, _SIDE, _SIDE
    return {
        f"{prefix}fc.weight": Tensor(relay.dense.kernel, drawn=drawn),
        f"{prefix}fc.bias": Tensor(relay.dense.bias, drawn=drawn),
    }


def refine_mask_head(head, semantic):
    """Names of RefineMask's head and of its `ObjectSemanticHead` or None."""
    prefix = "roi_head.mask_head."
    table = tables.series(head.convs, prefix + "instance_convs.{}.conv")
    if semantic is not None:
        table |= tables.series(semantic.convs, prefix + "semantic_convs.{}.conv")
        if semantic.logits is not None:
            table |= tables.layer(semantic.logits, f"{prefix}semantic_logits")
    own, last = f"{prefix}stages.{{}}.instance_logits", f"{prefix}final_instance_logits"
    if head.simple:
        own, last = (
            f"{prefix}stage_instance_logits.{{}}",
            f"{prefix}stage_instance_logits.{len(head.stages)}",
        )
    for i, stage in enumerate(head.stages):
        table |= _refine_stage(stage, f"{prefix}stages.{i}.") | tables.layer(
            stage.logits, own.format(i)
        )
    return table | tables.layer(head.logits, last)


def _refine_stage(stage, prefix):
    table = tables.layer(stage.join, f"{prefix}fuse_conv.0")
    if stage.map_conv is not None:
        table |= tables.layer(stage.map_conv, f"{prefix}semantic_transform_in")
    if stage.region_conv is not None:
        table |= tables.layer(stage.region_conv, f"{prefix}semantic_transform_out")
    for fusion in stage.fusion:
        tables.check_part(fusion, MultiBranchFusion)
        for i, branch in enumerate(fusion.branches, start=1):
            table |= tables.layer(branch, f"{prefix}fuse_conv.1.dilation_conv_{i}.conv")
        table |= tables.layer(fusion.merge, f"{prefix}fuse_conv.1.merge_conv.conv")
    return table | tables.layer(stage.shrink, f"{prefix}fuse_transform_out")


def _dense_after_map(layer, name):
    features = layer.kernel.shape[0] // _SIDE**2, _SIDE, _SIDE
    return {
        f"{name}.weight": Tensor(layer.kernel, features),
        f"{name}.bias": Tensor(layer.bias),
    }
