"""A published checkpoint as a ready model."""

import re

import pac_keras
from pac_keras.backbone.resnet import ARCHITECTURES
from pac_keras.choices import check_choice
from pac_keras.data.annotations import read_records
from pac_keras.data.image import Preprocessing
from pac_keras.weights.mmdet import load_mmdet, tensors_of
from pac_keras.weights.torchvision import load_maskrcnn

SYSTEMS = ("MaskRCNN", "CascadeMaskRCNN", "MaskScoringRCNN", "HTC", "SCNet", "RefineMask", "RDSNet")
_COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
_COCO_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,"
    "fire hydrant,stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,"
    "zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,"
    "sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,"
    "bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,"
    "carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,"
    "laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,"
    "clock,vase,scissors,teddy bear,hair drier,toothbrush"
)


def convert(checkpoint, system="MaskRCNN", backbone="resnet50", categories=None):
    """The model of a checkpoint of mmdetection, its forks, or torchvision's Mask R-CNN.

    It computes as the weights were trained: RoIAlign samples adaptively (mmdetection), or twice per
    axis and not aligned (torchvision); RDSNet's boxes and anchors are mmdetection 1.x's.

    Args:
        checkpoint: path, see `load_mmdet`.
        system: a name of `SYSTEMS`.
        backbone: a key of `ARCHITECTURES`; "..._caffe" for what mmdetection calls caffe.
        categories: COCO json whose categories, by ascending id, are the classes; None: COCO's own.

    Returns:
        The system; it knows its categories and how pictures are prepared.

    Raises:
        ValueError: an unknown name, other counts of classes, or weights that do not fit.
    """
    check_choice("system", system, SYSTEMS)
    check_choice("backbone", backbone, tuple(ARCHITECTURES))
    tensors = tensors_of(checkpoint)
    torchvision = "backbone.body.conv1.weight" in tensors
    if system == "RDSNet":
        arguments = _rdsnet_sizes(tensors, checkpoint)
    else:
        arguments = _torchvision_sizes(tensors) if torchvision else _sizes(tensors, checkpoint)
    if system == "RefineMask":
        arguments |= _refinemask_head(tensors)
    if system == "HTC" and "num_semantic_classes" not in arguments:
        arguments["semantic"] = "none"
    model = getattr(pac_keras, system)(backbone=backbone, **arguments)
    (load_maskrcnn if torchvision else load_mmdet)(model, tensors)
    model.categories = _categories(categories, model.num_classes)
    caffe = ARCHITECTURES[backbone].stride_first
    model.preprocessing = Preprocessing(std=(1.0, 1.0, 1.0)) if caffe else Preprocessing()
    return model


def _sizes(tensors, checkpoint):
    """Arguments of a two-stage system that can be read off the shapes."""
    box, semantic = "roi_head.bbox_head.", "roi_head.semantic_head.conv_logits.weight"
    rows = _rows(tensors, checkpoint)
    arguments = {
        "num_classes": rows(f"{box}fc_cls.weight", f"{box}0.fc_cls.weight") - 1,
        "base_channels": rows("backbone.conv1.weight"),
        "channels": rows("neck.fpn_convs.0.conv.weight"),
        "fc_channels": rows(f"{box}shared_fcs.0.weight", f"{box}0.shared_fcs.0.weight"),
        "sampling_ratio": 0,
    }
    return arguments | ({"num_semantic_classes": rows(semantic)} if semantic in tensors else {})


def _rdsnet_sizes(tensors, checkpoint):
    """Arguments of an RDSNet that can be read off the shapes."""
    rows = _rows(tensors, checkpoint)
    rep_channels = rows("mask_head.conv_reps.weight")
    num_anchors = rows("bbox_head.retina_reg.weight") // 4
    vector_size = rows("bbox_head.retina_rep.weight") // num_anchors
    tower = [n for n in tensors if re.fullmatch(r"bbox_head\.cls_convs\.\d+\.conv\.weight", n)]
    return {
        "num_classes": rows("bbox_head.retina_cls.weight") // num_anchors,
        "base_channels": rows("backbone.conv1.weight"),
        "channels": rows("neck.fpn_convs.0.conv.weight"),
        "rep_channels": rep_channels,
        "rep_background": vector_size == 2 * rep_channels,
        "num_convs": len(tower),
        "legacy": True,
    }


def _rows(tensors, checkpoint):
    """A function: the length of the first of the named tensors that there is."""

    def rows(*names):
        found = [name for name in names if name in tensors]
        if not found:
            raise ValueError(f"{checkpoint}: expected a detector's weights, there is no {names[0]}")
        return len(tensors[found[0]])

    return rows


def _refinemask_head(tensors):
    """Which of RefineMask's heads the tensors belong to."""
    prefix = "roi_head.mask_head."
    if f"{prefix}stage_instance_logits.0.weight" in tensors:
        return {"variant": "simple"}
    last = tensors.get(f"{prefix}final_instance_logits.weight", ())
    return {"class_agnostic_last": len(last) == 1}


def _torchvision_sizes(tensors):
    return {
        "num_classes": len(tensors["roi_heads.box_predictor.cls_score.weight"]) - 1,
        "sampling_ratio": 2,
        "aligned": False,
    }


def _categories(path, num_classes):
    """((id, name), ...) of the json `path`, or COCO's."""
    if path is not None:
        found = {i: category["name"] for i, category in read_records(path)["categories"].items()}
        if len(found) != num_classes:
            raise ValueError(f"{path}: expected {num_classes} categories, found {len(found)}")
        return tuple(sorted(found.items()))
    names = dict(zip(_COCO_IDS, _COCO_NAMES.split(","), strict=True))
    if num_classes == len(names):
        return tuple(names.items())
    if num_classes == max(names):  # torchvision counts the ids that COCO never used
        return tuple((i, names.get(i, "unused")) for i in range(1, num_classes + 1))
    raise ValueError(
        f"The checkpoint has {num_classes} classes, not COCO's: --categories FILE.json"
    )
