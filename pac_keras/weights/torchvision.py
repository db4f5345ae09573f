"""torchvision's checkpoints: ImageNet's ResNets and ResNeXts (timm's, too), and its Mask R-CNN.

Its Mask R-CNN counts the background as class 0 and the categories by COCO's ids, so a model for it
has 90 classes; it takes `sampling_ratio=2, aligned=False`. Its anchors are rounded to whole pixels,
ours are not.
"""

import numpy as np

from pac_keras.weights.mmdet import load_tensors, tensors_of
from pac_keras.weights.names import backbone, names

_PARTS = (  # theirs -> mmdetection's; numbers in the names stay
    ("backbone.body.", "backbone."),
    ("backbone.fpn.inner_blocks.{}.0.", "neck.lateral_convs.{}.conv."),
    ("backbone.fpn.layer_blocks.{}.0.", "neck.fpn_convs.{}.conv."),
    ("rpn.head.conv.0.0.", "rpn_head.rpn_conv."),
    ("rpn.head.cls_logits.", "rpn_head.rpn_cls."),
    ("rpn.head.bbox_pred.", "rpn_head.rpn_reg."),
    ("roi_heads.box_head.fc6.", "roi_head.bbox_head.shared_fcs.0."),
    ("roi_heads.box_head.fc7.", "roi_head.bbox_head.shared_fcs.1."),
    ("roi_heads.box_predictor.cls_score.", "roi_head.bbox_head.fc_cls."),
    ("roi_heads.box_predictor.bbox_pred.", "roi_head.bbox_head.fc_reg."),
    ("roi_heads.mask_head.{}.0.", "roi_head.mask_head.convs.{}.conv."),
    ("roi_heads.mask_predictor.conv5_mask.", "roi_head.mask_head.upsample."),
    ("roi_heads.mask_predictor.mask_fcn_logits.", "roi_head.mask_head.conv_logits."),
)


def load_backbone(model, checkpoint):
    """Puts the weights of an ImageNet classifier into `model.backbone`; its classes are left out.

    Args:
        model: a system with a ResNet or ResNeXt.
        checkpoint: path, or {name: array}, see `load_mmdet`.

    Returns:
        Report.

    Raises:
        ValueError: a name or a shape does not fit. Nothing is loaded then.
    """
    tensors = tensors_of(checkpoint)
    tensors = {name: x for name, x in tensors.items() if not name.startswith("fc.")}
    return load_tensors(backbone(model.backbone, ""), tensors, "the backbone")


def load_maskrcnn(model, checkpoint):
    """Puts the weights of torchvision's `maskrcnn_resnet50_fpn` into a MaskRCNN.

    Args, Returns, Raises: as `load_backbone`.
    """
    tensors = {_mmdet_name(name): x for name, x in tensors_of(checkpoint).items()}
    for name in tensors:
        if name.startswith("roi_head.bbox_head.fc_cls."):
            tensors[name] = np.concatenate([tensors[name][1:], tensors[name][:1]])
        elif name.startswith("roi_head.bbox_head.fc_reg."):
            tensors[name] = tensors[name][4:]
        elif name.startswith("roi_head.mask_head.conv_logits."):
            tensors[name] = tensors[name][1:]
    return load_tensors(names(model), tensors, type(model).__name__)


def _mmdet_name(name):
    for theirs, ours in _PARTS:
        start, number, end = theirs.partition("{}")
        if not name.startswith(start):
            continue
        if not number:
            return ours + name.removeprefix(start)
        index, _, rest = name.removeprefix(start).partition(".")
        if rest.startswith(end.removeprefix(".")):
            return ours.format(index) + rest.removeprefix(end.removeprefix("."))
    return name
