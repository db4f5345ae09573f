"""RefineMask's two heads, their targets, losses and gradients, and the boundary operator."""

import numpy as np
from keras import ops

from pac_keras.heads import refine_mask
from pac_keras.heads.semantic import ObjectSemanticHead, object_loss, object_target
from pac_keras.masks import boundary
from pac_keras.roi.features import from_map
from pac_keras.structures import GroundTruth, Rois
from pac_keras.weights.mmdet import load_tensors, tensors_of
from pac_keras.weights.names import refine_mask_head
from tests.builders import matches
from tests.parity.recorder import recorded

_CLASSES, _STRIDE = 5, 4
_PREFIX = "roi_head.mask_head."
_VARIANTS = {"refine": "original", "simple": "simple"}  # the fixture's names


def compare_refinemask(fixture, training=True):
    """Compares every array of the fixture; `training=False`: without losses and gradients."""
    _compare_boundary(fixture)
    for group, variant in _VARIANTS.items():
        head, semantic = _build(fixture, group, variant == "simple")
        _compare_forward(fixture, group, head, semantic)
        _compare_targets(fixture, group)
        if training:
            _compare_training(fixture, group, head, semantic)
        else:
            for kind in ("loss", "grad"):
                for name in fixture.under(f"{group}/{kind}"):
                    fixture.excuse(name, "training is compared on TensorFlow")


def _compare_boundary(fixture):
    mask = fixture.input("boundary/mask").astype("float32")
    for width in (1, 2, 3):
        border = _array(boundary(mask, width))
        fixture.compare(f"boundary/block_target_w{width}", np.where(border, 1, 2 * mask), "exact")


def _build(fixture, group, simple):
    """The fixture's head and its semantic map, with the fixture's weights."""
    channels = fixture["in/p2"].shape[1]
    head = refine_mask.RefineMaskHead(_CLASSES, channels, simple=simple)
    semantic = ObjectSemanticHead(channels, supervised=not simple)
    _logits(fixture, head, semantic, *_inputs(fixture))  # creates the variables
    tensors = {
        name.replace(f"{group}/w/", _PREFIX): fixture[name] for name in fixture.under(f"{group}/w/")
    }
    known = refine_mask_head(head, semantic)
    load_tensors(known, tensors_of(tensors), "head")
    for name, tensor in known.items():
        fixture.compare(name.replace(_PREFIX, f"{group}/w/"), tensor.theirs(), "exact")
    return head, semantic


def _inputs(fixture):
    """Features of the regions and P2, as the head takes them."""
    return tuple(
        ops.convert_to_tensor(fixture[f"in/{x}"].transpose(0, 2, 3, 1)) for x in ("ins_feats", "p2")
    )


def _logits(fixture, head, semantic, features, p2):
    """The logits of all scales, and the semantic map."""
    maps = semantic(p2)
    boxes = fixture["in/rois"][None, :, 1:]
    labels = ops.convert_to_tensor(fixture["in/labels"].astype("int32")[None])
    return head.predict(lambda boxes, side: features, maps, boxes, labels, 0), maps


def _compare_forward(fixture, group, head, semantic):
    features, p2 = _inputs(fixture)
    pooled = from_map(p2, _STRIDE, 0)(fixture["in/rois"][None, :, 1:], refine_mask.FIRST_SIDE)
    fixture.compare("in/ins_feats", _nchw(pooled), "features")
    stage, fusion = (refine_mask.RefineStage, "call"), (refine_mask.MultiBranchFusion, "call")
    regions = refine_mask.RefineStage, "regions"
    with recorded(stage, regions) as stages, recorded(fusion) as fusions:
        scales, maps = _logits(fixture, head, semantic, features, p2)
    region = stages["regions"][0].result[0]
    name = f"{group}/stage0/semantic_roi_feats_first2"
    fixture.compare(name, _nchw(region[:2]), "features")
    for k, (stage, fusion) in enumerate(zip(stages["call"], fusions["call"], strict=True)):
        for name, value in (
            ("in", stage.arguments[1]),
            ("out", stage.result[1]),
            ("fusion_in", fusion.arguments[1]),
        ):
            fixture.compare(f"{group}/stage{k}/{name}_first2", _nchw(value[:2]), "features")
        name = f"{group}/stage{k}/fusion_out_first2"  # theirs is not rectified yet
        rectified = np.maximum(fixture[name], 0)
        fixture.compare_array(name, rectified, _nchw(fusion.result[:2]), "features")
    for k, logits in enumerate(scales):
        fixture.compare(f"{group}/stage_pred{k}", _array(logits)[:, None], "logits")
    merged = _array(refine_mask.merge_scales(_theirs(fixture, group, scales)))[:, None]
    fixture.compare(f"{group}/final_merged_logits", merged, "logits")
    if maps[1] is not None:
        fixture.compare(f"{group}/semantic_pred", _nchw(maps[1]), "logits")


def _theirs(fixture, group, scales):
    """Our logits with the values of the fixture's, which were compared: gradients stay ours.

    Borders are drawn where logits change their sign, and some are within rounding of 0.
    """
    expected = [fixture[f"{group}/stage_pred{k}"][:, 0] for k in range(len(scales))]
    return [x + ops.stop_gradient(y - x) for x, y in zip(scales, expected, strict=True)]


def _truth(fixture):
    """(Rois, Matches, GroundTruth, sizes): the fixture's regions and objects, one picture."""
    masks = fixture["in/gt_masks"][None]
    count, size = masks.shape[1], masks.shape[2:]
    frames = np.tile(np.float32([0, 0, size[1], size[0]]), (1, count, 1))
    index, labels = fixture["in/gt_index"][None], fixture["in/labels"][None]
    objects = np.arange(count)[None] % _CLASSES
    semantic = np.zeros((1, size[0] // 8, size[1] // 8), "uint8")
    ids = np.zeros(1, "int32")
    truth = GroundTruth(frames, objects.astype("int32"), masks, frames, semantic, ids)
    boxes = fixture["in/rois"][None, :, 1:]
    rois = Rois(boxes, np.ones(boxes.shape[:2], "float32"), np.zeros(boxes.shape[:2], "float32"))
    return rois, matches(index, labels, np.ones_like(index)), truth, np.int32([size])


def _targets(fixture):
    sides = [refine_mask.FIRST_SIDE * 2**k for k in range(4)]
    scales = [np.zeros((len(fixture["in/rois"]), side, side), "float32") for side in sides]
    return refine_mask.scale_targets(scales, *_truth(fixture))


def _compare_targets(fixture, group):
    for k, target in enumerate(_targets(fixture)):
        fixture.compare_masks(f"{group}/target{k}", _array(target)[0])
    if f"{group}/semantic_target_stride4" in fixture:
        fixture.input(f"{group}/semantic_target_full")
        target, counted = object_target(*_truth(fixture)[2:], *fixture["in/p2"].shape[2:])
        fixture.compare(f"{group}/semantic_target_stride4", _array(target), "exact")
        assert np.all(_array(counted) == 1)


def _compare_training(fixture, group, head, semantic):
    import tensorflow as tf

    features, p2 = _inputs(fixture)
    _, matched, truth, sizes = _truth(fixture)
    with tf.GradientTape() as tape:
        tape.watch((features, p2))
        scales, maps = _logits(fixture, head, semantic, features, p2)
        scales = _theirs(fixture, group, scales)
        losses = refine_mask.scale_losses(scales, _targets(fixture), matched, boundary_width=2)
        weights = refine_mask.LOSS_WEIGHTS[_VARIANTS[group]]
        total = sum(w * s / n for w, (s, n) in zip(weights, losses, strict=False))
        fixture.compare(f"{group}/loss_instance", _array(total), "loss")
        if maps[1] is not None:
            summed, count = object_loss(maps[1], truth, sizes)
            fixture.compare(f"{group}/loss_semantic", _array(summed / count), "loss")
            total = total + summed / count
    known = refine_mask_head(head, semantic)
    names = [str(name) for name in fixture.input(f"{group}/grad_names")]
    variables = [known[f"{_PREFIX}{name}"].variable.value for name in names]
    gradients = tape.gradient(total, [*variables, features, p2])
    norms = [np.linalg.norm(_array(gradient)) for gradient in gradients[:-2]]
    fixture.compare_each(f"{group}/grad_l2", norms, "gradient")
    fixture.compare(f"{group}/grad_in_ins_feats", _nchw(gradients[-2]), "gradient")
    fixture.compare(f"{group}/grad_in_p2", _nchw(gradients[-1]), "gradient")


def _array(x):
    return ops.convert_to_numpy(x)


def _nchw(x):
    return _array(x).transpose(0, 3, 1, 2)
