"""Whole systems against a fixture: forward, targets, losses, gradients."""

import numpy as np
from keras import ops

import pac_keras
from pac_keras import Batch, GroundTruth, Images, cascade
from pac_keras.boxes import box_iou
from pac_keras.heads import box as box_module
from pac_keras.heads import mask as mask_module
from pac_keras.heads import quality as quality_module
from pac_keras.masks import paste
from pac_keras.proposals import rpn as rpn_module
from pac_keras.roi import sampling
from pac_keras.roi.sampling import NO_OBJECT
from pac_keras.systems import base_two_stage
from pac_keras.weights import load_mmdet, to_mmdet
from pac_keras.weights.names import names
from tests.parity.recorder import recorded

SYSTEMS = {
    "MaskRCNN": "MaskRCNN",
    "CascadeRCNN": "CascadeMaskRCNN",
    "MaskScoringRCNN": "MaskScoringRCNN",
    "HybridTaskCascade": "HTC",
    "SCNet": "SCNet",
}
LEVELS = (2, 3, 4, 5, 6)


def build(fixture, name=None):
    """The system that the fixture's configuration describes, with the fixture's weights."""
    config = fixture.config()
    name = name or SYSTEMS[config["type"]]
    roi_head, test = config["roi_head"], config["test_cfg"]
    box_head, mask_head = _first(roi_head["bbox_head"]), _first(roi_head["mask_head"])
    arguments = {
        "base_channels": config["backbone"]["base_channels"],
        "channels": config["neck"]["out_channels"],
        "fc_channels": box_head["fc_out_channels"],
        "sampling_ratio": 0,
        "pre_nms": (config["train_cfg"]["rpn_proposal"]["nms_pre"], test["rpn"]["nms_pre"]),
        "max_proposals": (
            config["train_cfg"]["rpn_proposal"]["max_per_img"],
            test["rpn"]["max_per_img"],
        ),
        "score_threshold": test["rcnn"]["score_thr"],
        "max_detections": test["rcnn"]["max_per_img"],
        "rpn_samples": config["train_cfg"]["rpn"]["sampler"]["num"],
        "roi_samples": _first(config["train_cfg"]["rcnn"])["sampler"]["num"],
        "sampling": "first",
    }
    if "semantic_head" in roi_head:
        arguments["num_semantic_classes"] = roi_head["semantic_head"]["num_classes"]
    if name == "MaskScoringRCNN":
        arguments["quality_threshold"] = "logit"  # the reference's quirk
    if name == "PAC":
        arguments |= {"semantic": "htc", "mask_quality": False, "semantic_loss_weight": 0.2}
    backbone = f"resnet{config['backbone']['depth']}"
    model = getattr(pac_keras, name)(mask_head["num_classes"], backbone, **arguments)
    load_mmdet(model, {k.removeprefix("w/"): fixture[k] for k in fixture.under("w/")})
    return model


def compare_system(fixture, name=None, training=True):
    """Compares every array of a whole-model fixture; `training=False`: the forward part alone."""
    model = build(fixture, name)
    for key, value in to_mmdet(model).items():
        fixture.compare(f"w/{key}", value, "exact")
    images = Images(
        ops.convert_to_tensor(fixture["in/img"].transpose(0, 2, 3, 1)),
        ops.convert_to_tensor(fixture["in/img_shape"].astype("int32")[None]),
    )
    _compare_maps(fixture, model, images)
    _compare_detections(fixture, model, images)
    if training:
        _compare_training(fixture, model, images)
    else:
        for key in fixture.under("train/"):
            fixture.excuse(key, "training is compared on TensorFlow")


def _compare_maps(fixture, model, images):
    for level, x in model.backbone(images.pixels).items():
        fixture.compare(f"backbone/C{level}", _nchw(x), "features")
    pyramid = model.encode(images)
    maps = model.rpn(pyramid)
    for level in LEVELS:
        fixture.compare(f"fpn/P{level}", _nchw(pyramid[level]), "features")
        fixture.compare(f"rpn/cls_P{level}", _nchw(maps[level][0]), "logits")
        fixture.compare(f"rpn/bbox_P{level}", _nchw(maps[level][1]), "logits")
    limits = model.pre_nms[1], model.max_proposals[1]
    rois, scores = rpn_module.propose(maps, images.sizes, *limits)
    fixture.compare("rpn/proposals", _array(rois.boxes)[0], "boxes")
    fixture.compare("rpn/proposal_scores", _array(scores)[0], "scores")
    if getattr(model, "semantic", None) is not None:
        features, logits = model.semantic(pyramid)
        fixture.compare("semantic/feat", _nchw(features), "features")
        fixture.compare("semantic/logits", _nchw(logits), "logits")
    if "glbctx/feat" in fixture:
        context, logits = model.context(pyramid[6])
        fixture.compare("glbctx/feat", _nchw(context), "features")
        fixture.compare("glbctx/logits", logits, "logits")


def _compare_detections(fixture, model, images):
    places = (
        (cascade.BoxStage, "predict"),
        (box_module.BoxHead, "hidden"),
        (base_two_stage, "select"),
        (mask_module.MaskHead, "call"),
        (quality_module.MaskQualityHead, "call"),
    )
    last_alone = "mask/s2/res_feat_first8" in fixture  # mmdetection 3.3 pastes HTC's last mask
    if last_alone:
        model.test_mask_stage = 3
    with recorded(*places) as calls:
        found = model(images)
    heads = dict(zip(("predict", "select"), (calls["predict"], calls["select"]), strict=True))
    for k, ((_, pool, rois), (logits, deltas)) in enumerate(heads["predict"]):
        fixture.compare(f"box/s{k}/roi_feats_first8", _nchw(pool(rois.boxes, 7)[:8]), "features")
        fixture.compare(f"box/s{k}/rois", _with_picture(rois.boxes), "boxes")
        fixture.compare(f"box/s{k}/cls_logits", _array(logits)[0], "logits")
        fixture.compare(f"box/s{k}/bbox_deltas", _rows(deltas), "logits")
    boxes, scores = calls["select"][0].arguments[:2]
    scores = _array(scores)[0]
    scores = np.concatenate([scores, 1 - scores.sum(axis=1, keepdims=True)], axis=1)
    fixture.compare("box/final_decoded_boxes_before_nms", _rows(boxes), "boxes")
    fixture.compare("box/final_class_probs_before_nms", scores, "scores")
    for k, ((_, features, *_), (hidden, logits)) in enumerate(
        calls["call"][: len(model.mask_heads)]
    ):
        fixture.compare(f"mask/s{k}/roi_feats_first8", _nchw(features[:8]), "features")
        fixture.compare(f"mask/s{k}/logits", _nchw(logits), "logits")
        if f"mask/s{k}/res_feat_first8" in fixture:
            fixture.compare(f"mask/s{k}/res_feat_first8", _nchw(hidden[:8]), "features")
    if "mask/iou_preds" in fixture:
        fixture.compare("mask/iou_preds", _array(calls["call"][-1].result), "logits")
    if "relay/in" in fixture:
        _compare_relay(fixture, model, found, calls)
    _compare_final(fixture, found)
    if last_alone:
        model.test_mask_stage = "ensemble"
        _compare_mean_mask(fixture, model(images))


def _compare_relay(fixture, model, found, calls):
    """SCNet's last box stage, run once more on what was found, and what it relays."""
    for k, call in enumerate(calls["hidden"][:-1]):
        fixture.compare(f"box/s{k}/relayed_feat", call.result, "features")
    group, hidden = "mask/relay_box_forward", calls["hidden"][-1].result
    rois = calls["predict"][-1].arguments[2]._replace(boxes=found.boxes)
    logits, deltas = model.stages[-1].predict(calls["predict"][-1].arguments[1], rois)
    fixture.compare(f"{group}/rois", _with_picture(found.boxes), "boxes")
    fixture.compare(f"{group}/cls_logits", _array(logits)[0], "logits")
    fixture.compare(f"{group}/bbox_deltas", _rows(deltas), "logits")
    fixture.compare(f"{group}/relayed_feat", hidden, "features")
    fixture.compare("relay/in", hidden, "features")
    relayed = model.relays[0](hidden)
    fixture.compare("relay/out_first4", _nchw(relayed[:4]), "features")


def _compare_mean_mask(fixture, found):
    """Our default, the mean of three stages, against the mean of the reference's stages."""
    order = np.argsort(-_array(found.box_scores)[0], kind="stable")
    rows, labels = np.arange(len(order)), fixture["final/labels"]
    logits = np.stack([fixture[f"mask/s{k}/logits"][rows, labels] for k in range(3)])
    mean = (1.0 / (1.0 + np.exp(-logits))).mean(axis=0)
    fixture.compare_array("mask/mean", mean, _array(found.masks)[0][order], "scores")


def _compare_final(fixture, found):
    order = np.argsort(-_array(found.box_scores)[0], kind="stable")  # the reference's order
    boxes, masks = _array(found.boxes)[0][order], _array(found.masks)[0][order]
    fixture.compare("final/boxes_img", boxes, "boxes")
    fixture.compare("final/box_scores", _array(found.box_scores)[0][order], "scores")
    fixture.compare("final/scores", _array(found.scores)[0][order], "scores")
    fixture.compare("final/labels", _array(found.labels)[0][order], "exact")
    fixture.compare("final/mask_probs", masks, "scores")
    original = (boxes / np.tile(fixture["in/scale_factor_wh"], 2)).astype("float32")
    fixture.compare("final/boxes", original, "boxes")
    height, width = fixture["in/ori_shape"].tolist()
    pasted = _array(paste(masks[None], original[None], height, width))[0]
    fixture.compare("final/pasted_probs_top5", pasted[:5], "scores")
    fixture.compare_masks("final/masks_top5", pasted[:5] >= 0.5)
    areas = (pasted >= 0.5).sum(axis=(1, 2))
    difference = np.abs(areas - fixture["final/mask_areas_all"]).max()
    fixture.rows.append(("final/mask_areas_all", "pixels", difference, 3))


def _compare_training(fixture, model, images):
    import tensorflow as tf

    places = (
        (rpn_module, "match"),
        (rpn_module, "sample_rows"),
        (rpn_module, "encode_deltas"),
        (base_two_stage, "rpn_loss"),
        (sampling, "match"),
        (sampling, "sample_rows"),
        (base_two_stage, "sample_rois"),
        (cascade.BoxStage, "predict"),
        (box_module, "encode_deltas"),
        (mask_module.MaskHead, "call"),
        (mask_module, "roi_targets"),
        (quality_module.MaskQualityHead, "call"),
        (quality_module, "quality_target"),
    )
    truth = _ground_truth(fixture)
    with recorded(*places) as calls, tf.GradientTape() as tape:
        sums = model.training_losses(Batch(images, truth))
        if "semantic" in sums:  # the reference divides by all cells, labelled or not
            sums["semantic"] = sums["semantic"][0], float(truth.semantic.size)
        losses = {name: total / count for name, (total, count) in sums.items()}
        total = sum(losses.values())
    _compare_samples(fixture, calls, len(fixture["train/gt_boxes"]))
    _compare_levels(fixture, calls)
    _compare_stages(fixture, model, calls)
    _compare_losses(fixture, losses, total)
    _compare_gradients(fixture, model, tape, total)


def _ground_truth(fixture):
    boxes, masks = fixture["train/gt_boxes"], fixture["train/gt_masks"]
    height, width = masks.shape[1:]
    whole = np.tile(np.float32([0, 0, width, height]), (1, len(boxes), 1))
    semantic = fixture["train/gt_sem_seg"][:, ::8, ::8]
    labels = fixture["train/gt_labels"].astype("int32")[None]
    truth = boxes[None], labels, masks[None], whole, semantic, np.zeros(1, "int32")
    return GroundTruth(*truth)


def _compare_samples(fixture, calls, num_objects):
    matched, sampled = calls["match"], calls["sample_rows"]
    for number, (match, rows) in enumerate(zip(matched, sampled, strict=True)):
        group = "rpn_sample" if number == 0 else f"rcnn_sample{number - 1}"
        boxes, valid, truth = match.arguments[:3]
        boxes, present = _array(boxes)[0], _array(valid)[0] > 0
        matches = type(match.result)(*(_array(x)[0] for x in match.result))
        assigned = np.where(matches.labels == NO_OBJECT, 0, -1)
        assigned = np.where(matches.positive > 0, matches.objects + 1, assigned)[present]
        overlaps = _array(box_iou(boxes, _array(truth.boxes)[0])).max(axis=1)[present]
        places = np.cumsum(present) - 1
        if number:
            fixture.compare(f"train/{group}/candidates_without_gt", boxes[present], "boxes")
            own = np.arange(num_objects)
            assigned = np.concatenate([own + 1, assigned])
            overlaps = np.concatenate([np.ones(num_objects), overlaps])
            places = np.concatenate([own, places + num_objects])
            boxes = np.concatenate([_array(truth.boxes)[0], boxes])
            present = np.concatenate([own >= 0, present])
        fixture.compare(f"train/{group}/assigned_gt_inds", assigned, "exact")
        fixture.compare(f"train/{group}/max_overlaps", overlaps, "scores")
        row, used, positive = (_array(x)[0] for x in rows.result)
        chosen = row[positive > 0]
        background = row[(used > 0) & (positive == 0)]
        fixture.compare(f"train/{group}/pos_inds", places[chosen], "exact")
        fixture.compare(f"train/{group}/neg_inds", places[background], "exact")
        fixture.compare(f"train/{group}/pos_priors", boxes[chosen], "boxes")
        assigned_of = np.full(len(boxes), -1)
        assigned_of[present] = assigned
        name = f"train/{group}/pos_assigned_gt_inds"
        fixture.compare(name, assigned_of[chosen] - 1, "exact")


def _compare_levels(fixture, calls):
    """The RPN's losses, level by level."""
    maps, _, _, box_error = calls["rpn_loss"][0].arguments[:4]
    anchors, logits, deltas = rpn_module.flatten_levels(maps)
    rows, used, positive = (_array(x)[0] for x in calls["sample_rows"][0].result)
    level = np.searchsorted(np.cumsum([len(x) for x in anchors]), rows, side="right")
    logits = np.concatenate([_array(x)[0] for x in logits])[rows]
    deltas = np.concatenate([_array(x)[0] for x in deltas])[rows]
    boxes = _array(box_error(deltas, _array(calls["encode_deltas"][0].result)[0])).sum(axis=1)
    errors = {
        "loss_rpn_cls": used * (np.logaddexp(0, logits) - positive * logits),
        "loss_rpn_bbox": positive * boxes,
    }
    for name, error in errors.items():
        sums = np.bincount(level, weights=error, minlength=len(LEVELS))
        fixture.compare(f"train/loss_per_level/{name}", sums / used.sum(), "loss")


def _compare_stages(fixture, model, calls):
    # Each stage samples once for its boxes and, interleaved, once more for its masks.
    samples = calls["sample_rois"]
    per_stage = len(samples) // len(calls["predict"])
    for k, ((_, _, rois), (logits, deltas)) in enumerate(calls["predict"]):
        sample, matches = samples[k * per_stage].result
        used = _array(sample.valid)[0] > 0
        labels = _array(matches.labels)[0][used]
        positive = _array(matches.positive)[0][used]
        logits = _array(logits)[0][used]
        group = f"train/box_s{k}"
        fixture.compare(f"{group}/rois", _with_picture(rois.boxes)[used], "boxes")
        fixture.compare(f"{group}/cls_logits", logits, "logits")
        fixture.compare(f"{group}/bbox_deltas", _rows(deltas)[used], "logits")
        fixture.compare(f"{group}/labels", labels, "exact")
        fixture.compare(f"{group}/label_weights", np.ones(len(labels)), "exact")
        weights = np.tile(positive[:, None], (1, 4))
        targets = _array(calls["encode_deltas"][k + 1].result)[0][used]  # the first is the RPN's
        fixture.compare(f"{group}/bbox_weights", weights, "exact")
        fixture.compare(f"{group}/bbox_targets", np.where(weights > 0, targets, 0), "logits")
        accuracy = 100 * np.mean(logits.argmax(axis=1) == labels)
        loss = f"train/loss/s{k}.acc" if len(calls["predict"]) > 1 else "train/loss/acc"
        fixture.compare(loss, np.float32(accuracy), "loss")
    for k in range(len(calls["roi_targets"])):
        # SCNet has one mask branch, behind the last stage; else each stage has one.
        stage = k if len(calls["roi_targets"]) > 1 else len(calls["predict"]) - 1
        # A mask head's output: with information flow a stage runs all heads before it, too.
        logits = calls["call"][_last_head(model, k)].result[1]
        masks = int(_array(samples[(stage + 1) * per_stage - 1].result[1].positive)[0].sum())
        fixture.compare(f"train/mask_s{k}/logits", _nchw(logits)[:masks], "logits")
        targets = _array(calls["roi_targets"][k].result)[0][:masks]
        fixture.compare_masks(f"train/mask_s{k}/mask_targets", targets)
    if "train/mask_iou_preds" in fixture:
        count = len(fixture["train/mask_iou_targets"])
        fixture.compare("train/mask_iou_preds", _array(calls["call"][-1].result)[:count], "logits")
        target = _array(calls["quality_target"][0].result)[0][:count]
        fixture.compare("train/mask_iou_targets", target, "scores")


def _last_head(model, stage):
    """Number of the mask head call that answers for a stage."""
    flows = getattr(model, "mask_info_flow", False)
    return sum(range(1, stage + 2)) - 1 if flows else stage


def _compare_losses(fixture, losses, total):
    for key in fixture.under("train/loss/"):
        name = key.removeprefix("train/loss/")
        if "loss_" in name:
            fixture.compare(key, _array(losses[_our_loss(name)]), "loss")
    fixture.compare("train/loss/TOTAL", _array(total), "loss")


def _our_loss(name):
    """ "s0.loss_bbox" -> "stage1_box"."""
    fixed = {
        "loss_rpn_cls": "rpn_objectness",
        "loss_rpn_bbox": "rpn_box",
        "loss_semantic_seg": "semantic",
        "loss_mask_iou": "quality",
        "loss_glbctx": "context",
    }
    if name in fixed:
        return fixed[name]
    stage, _, kind = name.rpartition(".")
    kind = {"loss_cls": "class", "loss_bbox": "box", "loss_mask": "mask"}[kind]
    return f"stage{int(stage[1:]) + 1}_{kind}" if stage else kind


def _compare_gradients(fixture, model, tape, total):
    known = names(model)
    trained = {id(v) for v in model.trainable_variables}
    keys = [str(name) for name in fixture["train/grad_names"]]
    ours = {k: known[k] for k in keys if id(known[k].variable) in trained}
    gradients = tape.gradient(total, [t.variable.value for t in ours.values()])
    found = {
        name: tensor.theirs(_array(gradient))
        for (name, tensor), gradient in zip(ours.items(), gradients, strict=True)
    }
    norms = [np.linalg.norm(found[k]) if k in found else -1.0 for k in keys]
    fixture.compare_each("train/grad_l2", norms, "gradient")
    fixture.input("train/grad_names")
    for key in fixture.under("train/grad/"):
        fixture.compare(key, found[key.removeprefix("train/grad/")], "gradient")


def _first(x):
    return x[0] if isinstance(x, list) else x


def _array(x):
    return ops.convert_to_numpy(x)


def _nchw(x):
    return _array(x).transpose(0, 3, 1, 2)


def _rows(x):
    """`[1, R, ...]` -> `[R, -1]`."""
    x = _array(x)[0]
    return x.reshape(len(x), -1)


def _with_picture(boxes):
    """The reference's RoIs: (number of the picture, box)."""
    return np.pad(_array(boxes)[0], ((0, 0), (1, 0)))
