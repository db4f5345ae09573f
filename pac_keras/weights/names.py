"""Which tensor of mmdetection's checkpoints is which variable of ours: one table per part.

RefineMask's and SCNet's own public codes, forks of mmdetection, name theirs alike.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from pac_keras.backbone.resnet import ResNet
from pac_keras.heads.refine_mask import MultiBranchFusion
from pac_keras.heads.semantic import FusedSemanticHead
from pac_keras.layers import ResidualBlock
from pac_keras.systems.refinemask import RefineMask

_SIDE = 7  # of the maps that dense layers flatten, or draw


class Tensor(NamedTuple):
    """A tensor of a checkpoint.

    variable: ours.
    features: for the columns of a dense layer after a flattened map: (channels, height, width).
    drawn: for the rows of a dense layer whose output becomes such a map.
    bgr: whether theirs takes blue first; ours always takes red first.
    """

    variable: Any
    features: tuple[int, int, int] | None = None
    drawn: tuple[int, int, int] | None = None
    bgr: bool = False

    def ours(self, value):
        """PyTorch's layout -> Keras's: out-in-height-width -> height-width-in-out."""
        value = value[:, ::-1] if self.bgr else value
        if self.drawn:
            value = np.moveaxis(value.reshape(*self.drawn, -1), 0, 2)
            return value.reshape(-1, value.shape[-1]).T if self._is_kernel() else value.ravel()
        if value.ndim == 4:  # also (in, out, h, w) -> (h, w, out, in) of transposed convolutions
            return value.transpose(2, 3, 1, 0)
        if value.ndim == 2 and self.features:
            value = value.reshape(-1, *self.features).transpose(0, 2, 3, 1)
            return value.reshape(len(value), -1).T
        return value.T

    def theirs(self, value=None):
        """`value`, an array like the variable (None = its own), in PyTorch's layout."""
        value = ops.convert_to_numpy(self.variable) if value is None else value
        if self.drawn:
            channels, height, width = self.drawn
            value = np.moveaxis(value.T.reshape(height, width, channels, -1), 2, 0)
            shape = (-1, value.shape[-1]) if self._is_kernel() else (-1,)
            return np.ascontiguousarray(value.reshape(shape))
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
            return np.ascontiguousarray(value[:, ::-1] if self.bgr else value)
        if value.ndim == 2 and self.features:
            channels, height, width = self.features
            value = value.T.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
            return np.ascontiguousarray(value.reshape(len(value), -1))
        return np.ascontiguousarray(value.T)

    def _is_kernel(self):
        return len(self.variable.shape) > 1

    def shape(self):
        """Its shape in the checkpoint."""
        return self.theirs().shape


def names(model):
    """{name in mmdetection: Tensor} of all weights of a model.

    Raises:
        ValueError: the model has a part that mmdetection has not.
    """
    table = backbone(model.backbone, "backbone.") | _pyramid(model.pyramid) | _rpn(model.rpn)
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
    _check_part(resnet, ResNet)
    table = _conv_norm(resnet.stem, f"{prefix}conv1", f"{prefix}bn1")
    table[f"{prefix}conv1.weight"] = Tensor(resnet.stem.convolution.kernel, bgr=resnet.stride_first)
    counts = {}
    for block, level in zip(resnet.blocks, resnet.block_levels, strict=True):
        number = counts[level] = counts.get(level, -1) + 1
        start = f"{prefix}layer{level - 1}.{number}."
        for i, part in enumerate(block.convolutions(), start=1):
            table |= _conv_norm(part, f"{start}conv{i}", f"{start}bn{i}")
        if block.shortcut is not None:
            table |= _conv_norm(block.shortcut, f"{start}downsample.0", f"{start}downsample.1")
    return table


def _check_part(part, kind):
    if not isinstance(part, kind):
        raise ValueError(
            f"Published checkpoints have the weights of a {kind.__name__}, the model has a "
            f"{type(part).__name__}"
        )


def _pyramid(fpn):
    return _series(fpn.lateral, "neck.lateral_convs.{}.conv") | _series(
        fpn.output_convs, "neck.fpn_convs.{}.conv"
    )


def _rpn(rpn):
    return (
        _layer(rpn.shared, "rpn_head.rpn_conv")
        | _layer(rpn.objectness, "rpn_head.rpn_cls")
        | _layer(rpn.deltas, "rpn_head.rpn_reg")
    )


def _box_head(stage, prefix):
    head = stage.head
    return (
        _dense_after_map(head.dense[0], f"{prefix}shared_fcs.0")
        | _layer(head.dense[1], f"{prefix}shared_fcs.1")
        | _layer(head.classes, f"{prefix}fc_cls")
        | _layer(head.deltas, f"{prefix}fc_reg")
    )


def _mask_head(head, prefix):
    table = _stack(head.convs, prefix + "convs.{}.conv")
    table |= _layer(head.upsample, f"{prefix}upsample") | _layer(
        head.logits, f"{prefix}conv_logits"
    )
    if head.relay is not None:
        table |= _layer(head.relay, f"{prefix}conv_res.conv")
    return table


def _semantic_head(head):
    _check_part(head, FusedSemanticHead)
    prefix = "roi_head.semantic_head."
    return (
        _series(head.lateral, prefix + "lateral_convs.{}.conv")
        | _stack(head.convs, prefix + "convs.{}.conv")
        | _layer(head.embedding, f"{prefix}conv_embedding.conv")
        | _layer(head.logits, f"{prefix}conv_logits")
    )


def _quality_head(head):
    prefix = "roi_head.mask_iou_head."
    return (
        _series([*head.convs, head.last_conv], prefix + "convs.{}")
        | _dense_after_map(head.dense[0], f"{prefix}fcs.0")
        | _layer(head.dense[1], f"{prefix}fcs.1")
        | _layer(head.quality, f"{prefix}fc_mask_iou")
    )


def _context_head(head):
    prefix = "roi_head.glbctx_head."
    return _stack(head.convs, prefix + "convs.{}.conv") | _layer(head.classes, f"{prefix}fc")


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
    table = _series(head.convs, prefix + "instance_convs.{}.conv")
    if semantic is not None:
        table |= _series(semantic.convs, prefix + "semantic_convs.{}.conv")
        if semantic.logits is not None:
            table |= _layer(semantic.logits, f"{prefix}semantic_logits")
    own, last = f"{prefix}stages.{{}}.instance_logits", f"{prefix}final_instance_logits"
    if head.simple:
        own, last = (
            f"{prefix}stage_instance_logits.{{}}",
            f"{prefix}stage_instance_logits.{len(head.stages)}",
        )
    for i, stage in enumerate(head.stages):
        table |= _refine_stage(stage, f"{prefix}stages.{i}.") | _layer(stage.logits, own.format(i))
    return table | _layer(head.logits, last)


def _refine_stage(stage, prefix):
    table = _layer(stage.join, f"{prefix}fuse_conv.0")
    if stage.map_conv is not None:
        table |= _layer(stage.map_conv, f"{prefix}semantic_transform_in")
    if stage.region_conv is not None:
        table |= _layer(stage.region_conv, f"{prefix}semantic_transform_out")
    for fusion in stage.fusion:
        _check_part(fusion, MultiBranchFusion)
        for i, branch in enumerate(fusion.branches, start=1):
            table |= _layer(branch, f"{prefix}fuse_conv.1.dilation_conv_{i}.conv")
        table |= _layer(fusion.merge, f"{prefix}fuse_conv.1.merge_conv.conv")
    return table | _layer(stage.shrink, f"{prefix}fuse_transform_out")


def _stack(layers, pattern):
    """`_series` of what `layers.conv_stack` makes: a block's two convolutions are numbered."""
    table = {}
    for i, layer in enumerate(layers):
        if isinstance(layer, ResidualBlock):
            name = pattern.format(i)
            table |= _layer(layer.first, f"{name}1") | _layer(layer.second, f"{name}2")
        else:
            table |= _layer(layer, pattern.format(i))
    return table


def _series(layers, pattern):
    table = {}
    for i, layer in enumerate(layers):
        table |= _layer(layer, pattern.format(i))
    return table


def _layer(layer, name):
    table = {f"{name}.weight": Tensor(layer.kernel)}
    return table | {f"{name}.bias": Tensor(layer.bias)} if layer.bias is not None else table


def _dense_after_map(layer, name):
    features = layer.kernel.shape[0] // _SIDE**2, _SIDE, _SIDE
    return {
        f"{name}.weight": Tensor(layer.kernel, features),
        f"{name}.bias": Tensor(layer.bias),
    }


def _conv_norm(part, convolution, norm):
    return {
        f"{convolution}.weight": Tensor(part.convolution.kernel),
        f"{norm}.weight": Tensor(part.norm.gamma),
        f"{norm}.bias": Tensor(part.norm.beta),
        f"{norm}.running_mean": Tensor(part.norm.moving_mean),
        f"{norm}.running_var": Tensor(part.norm.moving_variance),
    }
