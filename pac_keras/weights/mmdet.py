"""mmdetection's checkpoints of the two-stage systems, into our variables and back.

One table per part says which tensor of theirs is which variable of ours: `names` builds it from a
model, and reading, writing and the report of both follow from it.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from pac_keras.backbone.resnet import ResNet
from pac_keras.heads.semantic import FusedSemanticHead
from pac_keras.weights.files import read

_COUNTER = "num_batches_tracked"
_SIDE = 7  # of the maps that dense layers flatten


class Tensor(NamedTuple):
    """A tensor of a checkpoint.

    variable: ours.
    features: for the columns of a dense layer after a flattened map: (channels, height, width).
    bgr: whether theirs takes blue first; ours always takes red first.
    """

    variable: Any
    features: tuple[int, int, int] | None = None
    bgr: bool = False

    def ours(self, value):
        """PyTorch's layout -> Keras's: out-in-height-width -> height-width-in-out."""
        value = value[:, ::-1] if self.bgr else value
        if value.ndim == 4:  # also (in, out, h, w) -> (h, w, out, in) of transposed convolutions
            return value.transpose(2, 3, 1, 0)
        if value.ndim == 2 and self.features:
            value = value.reshape(-1, *self.features).transpose(0, 2, 3, 1)
            return value.reshape(len(value), -1).T
        return value.T

    def theirs(self, value=None):
        """`value`, an array like the variable (None = its own), in PyTorch's layout."""
        value = ops.convert_to_numpy(self.variable) if value is None else value
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
            return np.ascontiguousarray(value[:, ::-1] if self.bgr else value)
        if value.ndim == 2 and self.features:
            channels, height, width = self.features
            value = value.T.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
            return np.ascontiguousarray(value.reshape(len(value), -1))
        return np.ascontiguousarray(value.T)

    def shape(self):
        """Its shape in the checkpoint."""
        return self.theirs().shape


class Report(NamedTuple):
    """What a checkpoint and a model had in common.

    loaded: names whose values are now in the model.
    missing: names that the model has and the checkpoint lacks.
    unused: names that the checkpoint has and the model lacks.
    """

    loaded: list[str]
    missing: list[str]
    unused: list[str]

    def __str__(self):
        parts = (f"{field}: {len(names)}" for field, names in self._asdict().items())
        return ", ".join(parts)


def load_mmdet(model, checkpoint, partial=False):
    """Puts the weights of an mmdetection checkpoint into `model`.

    Args:
        model: MaskRCNN, CascadeMaskRCNN, MaskScoringRCNN, HTC, or PAC with HTC's parts.
        checkpoint: path of `.pth` (needs torch), `.safetensors` or `.npz`, or {name: array}.
        partial: whether names may be missing or unused; otherwise they raise.

    Returns:
        Report.

    Raises:
        ValueError: a shape differs, or, unless `partial`, names do. Nothing is loaded then.
    """
    return load_tensors(names(model), tensors_of(checkpoint), type(model).__name__, partial)


def tensors_of(checkpoint):
    """{name: array} of a path or such a dict, without counters and parallel training's prefix."""
    tensors = checkpoint if isinstance(checkpoint, dict) else read(checkpoint)
    tensors = {name.removeprefix("module."): np.asarray(x) for name, x in tensors.items()}
    return {name: x for name, x in tensors.items() if not name.endswith(_COUNTER)}


def load_tensors(known, tensors, owner, partial=False):
    """Puts `tensors` {name: array} into the variables of `known` {name: Tensor}; a Report.

    `owner` is what an error calls the model. Raises as `load_mmdet`.
    """
    report = Report(
        [name for name in known if name in tensors],
        [name for name in known if name not in tensors],
        [name for name in tensors if name not in known],
    )
    if not partial and (report.missing or report.unused):
        raise ValueError(
            f"The checkpoint does not fit {owner}: {report}. "
            f"First missing: {report.missing[:3]}, first unused: {report.unused[:3]}. "
            "partial=True loads what fits."
        )
    for name in report.loaded:
        expected, found = known[name].shape(), np.shape(tensors[name])
        if expected != found:
            raise ValueError(f"{name}: expected shape {expected}, the checkpoint has {found}")
    for name in report.loaded:
        known[name].variable.assign(known[name].ours(np.asarray(tensors[name])))
    return report


def to_mmdet(model):
    """{name: NumPy array}, the model's weights as mmdetection names and lays them out.

    PyTorch's counters of batches, which nothing reads in inference, are 0.
    """
    tensors = {}
    for name, tensor in names(model).items():
        tensors[name] = tensor.theirs()
        if name.endswith("running_var"):
            tensors[name.replace("running_var", _COUNTER)] = np.zeros((), "int64")
    return tensors


def names(model):
    """{name in mmdetection: Tensor} of all weights of a model.

    Raises:
        ValueError: the model has a part that mmdetection has not.
    """
    table = backbone(model.backbone, "backbone.") | _pyramid(model.pyramid) | _rpn(model.rpn)
    several = hasattr(model, "stages")
    stages = model.stages if several else [model.stage]
    for i, stage in enumerate(stages):
        table |= _box_head(stage.head, f"roi_head.bbox_head.{f'{i}.' if several else ''}")
    for i, head in enumerate(model.mask_heads):
        table |= _mask_head(head, f"roi_head.mask_head.{f'{i}.' if several else ''}")
    if getattr(model, "semantic", None) is not None:
        _check_part(model.semantic, FusedSemanticHead)
        table |= _semantic_head(model.semantic)
    if getattr(model, "quality", None) is not None:
        table |= _quality_head(model.quality)
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


def _box_head(head, prefix):
    return (
        _dense_after_map(head.dense[0], f"{prefix}shared_fcs.0")
        | _layer(head.dense[1], f"{prefix}shared_fcs.1")
        | _layer(head.classes, f"{prefix}fc_cls")
        | _layer(head.deltas, f"{prefix}fc_reg")
    )


def _mask_head(head, prefix):
    table = _series(head.convs, prefix + "convs.{}.conv")
    table |= _layer(head.upsample, f"{prefix}upsample") | _layer(
        head.logits, f"{prefix}conv_logits"
    )
    if head.relay is not None:
        table |= _layer(head.relay, f"{prefix}conv_res.conv")
    return table


def _semantic_head(head):
    prefix = "roi_head.semantic_head."
    return (
        _series(head.lateral, prefix + "lateral_convs.{}.conv")
        | _series(head.convs, prefix + "convs.{}.conv")
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


def _series(layers, pattern):
    table = {}
    for i, layer in enumerate(layers):
        table |= _layer(layer, pattern.format(i))
    return table


def _layer(layer, name):
    table = {f"{name}.weight": Tensor(layer.kernel)}
    return table | {f"{name}.bias": Tensor(layer.bias)} if layer.use_bias else table


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
