"""Names in RDSNet's own public code, a fork of mmdetection 1.0: its pyramid and its heads.

Source: https://github.com/wangsr126/RDSNet, commit 0fd3abbc.
"""

import numpy as np

from pac_keras.heads import mbrm
from pac_keras.systems.rdsnet import RDSNet
from pac_keras.weights import tables
from pac_keras.weights.tables import Tensor

_KERNEL, _BIAS = "mbrm.weight", "mbrm.bias"
_PREDICTIONS = {"cls": "classes", "reg": "deltas", "rep": "vectors"}  # theirs: ours


def detector(model):
    """{name: Tensor} of what an RDSNet has besides its backbone."""
    table = _pyramid(model.pyramid) | retina_head(model.head) | pixel_stream(model.pixels)
    return table | refinement(model.refinement) if model.refinement is not None else table


def _pyramid(fpn):
    table = tables.series(fpn.lateral, "neck.lateral_convs.{}.conv")
    return table | tables.series([*fpn.output_convs, *fpn.extra_convs], "neck.fpn_convs.{}.conv")


def retina_head(head):
    """Names of a `RetinaHead`."""
    table = {}
    for tower, (kind, attribute) in zip(head.towers, _PREDICTIONS.items(), strict=True):
        for i, conv in enumerate(tower):
            table |= tables.conv_group_norm(conv, f"bbox_head.{kind}_convs.{i}")
        table |= tables.layer(getattr(head, attribute), f"bbox_head.retina_{kind}")
    return table


def pixel_stream(pixels):
    """Names of a `PixelStream`; theirs counts the doublings between convolutions, too."""
    table = {}
    for i, (_, convs) in enumerate(sorted(pixels.lateral.items())):
        for k, conv in enumerate(convs):
            table |= tables.conv_group_norm(conv, f"mask_head.lateral_convs.{i}.{2 * k}")
    table |= tables.conv_group_norm(pixels.joined, "mask_head.final_convs.0.0")
    return table | tables.layer(pixels.vectors, "mask_head.conv_reps")


def refinement(layer):
    """Names of an `MBRM`."""
    return {_KERNEL: Tensor(layer.kernel, signal=True), _BIAS: Tensor(layer.bias)}


def with_refinement(model, tensors):
    """`tensors`; those of a detector without `MBRM` have its published numbers besides.

    They are constants in the public code: its checkpoints do not hold them. Nothing is added for a
    model that has no `MBRM`, nor to other tensors, such as a backbone's.
    """
    absent = _KERNEL not in tensors and "mask_head.conv_reps.weight" in tensors
    if not absent or not isinstance(model, RDSNet) or model.refinement is None:
        return tensors
    kernel = np.asarray(mbrm.PUBLISHED, "float32")[None, None]
    return tensors | {_KERNEL: kernel, _BIAS: np.float32([mbrm.PUBLISHED_BIAS])}
