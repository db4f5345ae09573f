"""Single operations against a fixture: `<group>/<name>`, inputs and outputs side by side."""

import re

import keras
import numpy as np
from keras import layers, ops

from pac_keras import boxes as B
from pac_keras import losses, masks
from pac_keras.data.image import Preprocessing, resize_nearest, target_size
from pac_keras.detections.paste import paste_mask, sample_mask
from pac_keras.detections.select import nms, select
from pac_keras.heads.mask import mask_loss
from pac_keras.heads.quality import quality_loss
from pac_keras.heads.semantic import semantic_loss
from pac_keras.layers import resize_bilinear
from pac_keras.proposals.anchors import anchor_grid, base_anchors, centred_inside, inside_picture
from pac_keras.roi.align import MAX_ADAPTIVE_SAMPLES, roi_align
from pac_keras.roi.features import from_pyramid, roi_levels
from pac_keras.roi.sampling import NO_OBJECT, match
from pac_keras.structures import CROWD, PADDING
from tests.builders import gradient, ground_truth, matches, numpy

_STDS = {  # deltas of the RPN and of the three stages
    "rpn": (1.0, 1.0, 1.0, 1.0),
    "s0": (0.1, 0.1, 0.2, 0.2),
    "s1": (0.05, 0.05, 0.1, 0.1),
    "s2": (0.033, 0.033, 0.067, 0.067),
}
_STRIDES = (4, 8, 16, 32, 64)


def compare_operations(fixture):
    """Compares every operation of the fixture."""
    for compare in (
        _roi_align,
        _roi_features,
        _suppression,
        _soft_suppression,
        _multiclass,
        _coder,
        _anchors,
        _assignment,
        _overlaps,
        _mask_targets,
        _pasting,
        _region_losses,
        _map_losses,
        _resampling,
        _layers,
        _picture_sizes,
    ):
        compare(fixture)


def _nhwc(x):
    return x.transpose(0, 2, 3, 1)


def _nchw(x):
    return numpy(x).transpose(0, 3, 1, 2)


def _regions(rois):
    """Boxes `[2, R, 4]`, all of them in both pictures, and (picture, row) of the fixture's rows."""
    boxes = np.tile(rois[None, :, 1:], (2, 1, 1))
    return boxes, (rois[:, 0].astype(int), np.arange(len(rois)))


def _roi_align(fixture):
    boxes, rows = _regions(fixture.input("roi_align/rois"))
    levels = np.zeros(boxes.shape[:2], "int32")
    for name in fixture.under("roi_align/out"):
        found = re.fullmatch(r"roi_align/out_s(\d+)_sr(\d)_(\d+)x(\d+)", name)
        if not found:
            continue  # a gradient, compared with its value
        stride, ratio, height, width = map(int, found.groups())
        features = _nhwc(fixture.input(f"roi_align/feat_s{stride}"))

        def aligned(x, stride=stride, size=(height, width), ratio=ratio):
            cut = roi_align([x], [stride], boxes, levels, size, ratio)
            return ops.reshape(cut, (*boxes.shape[:2], *size, x.shape[-1]))

        exact = _within_cap(boxes[0], stride, (height, width), ratio)
        ours = _nchw(numpy(aligned(features))[rows])
        fixture.compare_array(name, fixture[name][exact], ours[exact], "features")
        if f"{name}_gradin" in fixture and not exact.all():
            fixture.input(f"{name}_gradout")
            fixture.excuse(f"{name}_gradin", "a region needs more samples than this backend takes")
        elif f"{name}_gradin" in fixture:
            upstream = np.zeros((*boxes.shape[:2], height, width, features.shape[-1]), "float32")
            upstream[rows] = _nhwc(fixture.input(f"{name}_gradout"))
            slope = gradient(lambda x: ops.sum(aligned(x) * upstream), features)  # noqa: B023
            fixture.compare(f"{name}_gradin", slope.transpose(0, 3, 1, 2), "features")


def _within_cap(boxes, stride, size, sampling_ratio):
    """Which boxes get all their adaptive samples: on TensorFlow every one."""
    if sampling_ratio or keras.backend.backend() == "tensorflow":
        return np.ones(len(boxes), bool)
    sides = np.stack([boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    return (np.ceil(sides / stride / size) <= MAX_ADAPTIVE_SAMPLES).all(axis=1)


def _roi_features(fixture):
    levels = roi_levels(fixture.input("roi_levels/rois")[:, 1:])
    fixture.compare("roi_levels/levels", levels, "exact")
    pyramid = {i: _nhwc(fixture[f"roi_align/feat_s{2**i}"]) for i in (2, 3, 4, 5)}
    pyramid[6] = np.full((2, 2, 3, 3), np.nan, "float32")  # never used
    boxes, (picture, row) = _regions(fixture.input("roi_extractor/rois"))
    cut = numpy(from_pyramid(pyramid, sampling_ratio=0)(boxes, 7))
    cut = cut.reshape(*boxes.shape[:2], *cut.shape[1:])[picture, row]
    fixture.compare("roi_extractor/out7", _nchw(cut), "features")


def _suppression(fixture):
    boxes, scores, classes = (fixture.input(f"nms/{x}") for x in ("boxes", "scores", "class_ids"))
    boxes, count = boxes[None] - boxes.min(), len(scores)  # `select` wants them not negative
    by_class = np.zeros((1, count, classes.max() + 1), "float32")
    by_class[0, np.arange(count), classes] = scores
    for name in fixture.under("nms/keep_"):
        threshold = name.removeprefix("nms/keep_")
        rows, valid = map(numpy, nms(boxes, scores[None], float(threshold), count))
        kept = rows[valid > 0]
        fixture.compare(name, kept, "exact")
        fixture.compare(f"nms/agnostic_keep_{threshold}", kept, "exact")
        rows, _, _, valid = map(numpy, select(boxes, by_class, 0.0, float(threshold), 1000, count))
        fixture.compare(f"nms/batched_keep_{threshold}", rows[valid > 0], "exact")


def _soft_suppression(fixture):
    """Soft-NMS is no option of this library; the loop below runs on its IoU."""
    boxes, scores = fixture["nms/boxes"], fixture["nms/scores"].copy()
    overlap = numpy(B.box_iou(boxes, boxes))
    decays = {
        "linear": lambda iou: np.where(iou > 0.3, 1 - iou, 1),
        "gaussian": lambda iou: np.exp(-(iou**2) / 0.5),
    }
    for kind, decay in decays.items():
        left, kept = scores.copy(), []
        while left.max() >= 1e-3:
            kept.append((best := left.argmax(), left[best]))
            left = left * decay(overlap[best])
            left[[row for row, _ in kept]] = -1
        rows = np.asarray([row for row, _ in kept])
        dets = np.concatenate([boxes[rows], [[score] for _, score in kept]], axis=1)
        fixture.compare(f"nms/soft_{kind}_keep", rows, "exact")
        fixture.compare(f"nms/soft_{kind}_dets", dets, "scores")


def _multiclass(fixture):
    boxes, scores = (fixture.input(f"multiclass_nms/{x}") for x in ("boxes", "scores"))
    classes = scores.shape[1] - 1
    boxes = boxes.reshape(1, len(boxes), classes, 4)
    shift = -boxes.min()
    for prefix, own in (("", boxes + shift), ("agnostic_box_", boxes[:, :, 0] + shift)):
        count = len(fixture[f"multiclass_nms/{prefix}labels"])
        chosen = select(own, scores[None, :, :classes], 0.05, 0.5, 1000, count)
        rows, labels, best, _ = (numpy(x)[0] for x in chosen)
        places = own[0, rows] if own.ndim == 3 else own[0, rows, labels]
        dets = np.concatenate([places - shift, best[:, None]], axis=1)
        fixture.compare(f"multiclass_nms/{prefix}dets", dets, "scores")
        fixture.compare(f"multiclass_nms/{prefix}labels", labels, "exact")


def _coder(fixture):
    rois, objects, deltas = (fixture.input(f"coder/{x}") for x in ("rois", "gt", "deltas"))
    by_class = fixture.input("coder/deltas_5cls").reshape(len(rois), -1, 4)
    size = np.asarray([fixture["mask_target/gt_masks"].shape[1:]])
    for stage, scale in _STDS.items():
        encoded = B.encode_deltas(objects, rois, scale)
        fixture.compare(f"coder/encode_{stage}", encoded, "features")
        decoded = B.decode_deltas(deltas, rois, scale)
        fixture.compare(f"coder/decode_{stage}", decoded, "boxes")
        clipped = B.clip_boxes(decoded[None], size)[0]
        fixture.compare(f"coder/decode_clip_{stage}", clipped, "boxes")
        decoded = B.decode_deltas(by_class, rois[:, None], scale)
        clipped = numpy(B.clip_boxes(ops.reshape(decoded, (1, -1, 4)), size))
        clipped = clipped.reshape(len(rois), -1)
        fixture.compare(f"coder/decode_clip_5cls_{stage}", clipped, "boxes")


def _anchors(fixture):
    sizes = fixture.input("anchors/feat_sizes")
    padded = fixture.input("anchors/valid_flags_pad_shape")[None]
    grids = []
    for (height, width), stride in zip(sizes, _STRIDES, strict=True):
        grids.append(numpy(anchor_grid(int(height), int(width), stride, base_anchors(stride))))
        fixture.compare(f"anchors/base_s{stride}", base_anchors(stride), "boxes")
        fixture.compare(f"anchors/grid_s{stride}", grids[-1], "boxes")
        valid = centred_inside(grids[-1], padded)
        fixture.compare(f"anchors/valid_s{stride}", numpy(valid)[0] > 0, "exact")
    anchors = np.concatenate(grids)
    valid = numpy(centred_inside(anchors, padded))[0] > 0
    for name in fixture.under("anchors/inside_border"):
        border, *size = map(int, re.search(r"border(-?\d+)_img(\d+)x(\d+)", name).groups())
        inside = valid
        if border >= 0:
            inside = valid & (numpy(inside_picture(anchors, np.asarray([size]), border))[0] > 0)
        fixture.compare(name, inside, "exact")


_ASSIGNERS = {  # name: thresholds, least IoU of an object's best region
    "rpn": ((0.3, 0.7), 0.3),
    "rpn_ignore": ((0.3, 0.7), 0.3),
    "rpn_nogt": ((0.3, 0.7), 0.3),
    "rpn_not_assign_all": ((0.3, 0.7), None),
    "rcnn0.5": ((0.5, 0.5), None),
    "rcnn0.6": ((0.6, 0.6), None),
    "rcnn0.7": ((0.7, 0.7), None),
    "rcnn0.5_lowq": ((0.5, 0.5), 0.5),
}


def _assignment(fixture):
    priors, objects, labels, ignored = (
        fixture.input(f"assign/{x}") for x in ("priors", "gt_boxes", "gt_labels", "gt_ignore")
    )
    iou = numpy(B.box_iou(objects, priors))
    for name, (thresholds, low_quality) in _ASSIGNERS.items():
        boxes, kinds = objects, labels
        if name == "rpn_ignore":
            boxes, kinds = np.concatenate([objects, ignored]), np.append(labels, CROWD)
        if name == "rpn_nogt":
            kinds = np.full(len(boxes), PADDING)
        truth = ground_truth([boxes], [kinds])
        valid = np.ones((1, len(priors)), "float32")
        found = match(priors[None], valid, truth, thresholds, low_quality)
        found = type(found)(*(numpy(x)[0] for x in found))
        assigned = np.where(found.positive > 0, found.objects + 1, -1)
        assigned[found.labels == NO_OBJECT] = 0
        best = np.zeros(len(priors)) if name == "rpn_nogt" else iou.max(axis=0)
        if name == "rpn_ignore":
            best[numpy(B.box_coverage(priors, ignored)).max(axis=1) > 0.5] = -1
        if name == "rpn_not_assign_all":  # no option here: each object rescues one region alone
            for number, row in enumerate(iou):
                if row.max() >= 0.3:
                    assigned[row.argmax()] = number + 1
        fixture.compare(f"assign/{name}_gt_inds", assigned, "exact")
        fixture.compare(f"assign/{name}_max_overlaps", best, "scores")
        kinds = np.where(assigned > 0, labels[np.maximum(assigned - 1, 0)], -1)
        fixture.compare(f"assign/{name}_labels", kinds, "exact")


def _overlaps(fixture):
    priors, objects = fixture["assign/priors"], fixture["assign/gt_boxes"]
    fixture.compare("assign/iou_gt_x_priors", B.box_iou(objects, priors), "scores")
    covered = B.box_coverage(priors, fixture["assign/gt_ignore"])
    fixture.compare("assign/iof_priors_x_ignore", covered, "scores")
    # The generalised IoU is no function of this library; it is made of its areas.
    first, second = fixture["coder/rois"], fixture["coder/gt"]
    iou, shared = (
        numpy(f(first[:, None], second[:, None]))[:, 0, 0] for f in (B.box_iou, B.box_intersection)
    )
    low, high = np.minimum(first, second)[:, :2], np.maximum(first, second)[:, 2:]
    hull = numpy(B.box_area(np.concatenate([low, high], axis=1)))
    union = numpy(B.box_area(first)) + numpy(B.box_area(second)) - shared
    fixture.compare("assign/giou_first40", iou - (hull - union) / hull, "scores")


def _mask_targets(fixture):
    bitmaps, boxes, rows = (
        fixture.input(f"mask_target/{x}") for x in ("gt_masks", "boxes", "gt_index")
    )
    height, width = bitmaps.shape[1:]
    frames = np.tile(np.asarray([[0, 0, width, height]], "float32"), (1, len(rows), 1))
    regions = bitmaps[rows][None], frames, boxes[None], [[height, width]]
    for grid in (14, 28):
        fixture.compare(f"mask_target/target{grid}", masks.roi_targets(*regions, grid)[0], "exact")
    soft = masks.roi_means(*regions, 28)[0]
    fixture.compare("mask_target/soft28_after_clip", soft, "features")


def _pasting(fixture):
    small, boxes = fixture.input("paste/mask_probs"), fixture.input("paste/boxes")
    _, height, width = fixture["paste/soft"].shape
    everywhere = slice(0, height), slice(0, width)
    soft = np.stack([sample_mask(m, b, *everywhere) for m, b in zip(small, boxes, strict=True)])
    fixture.compare("paste/soft", soft, "features")
    fixture.compare_masks("paste/binary0.5", soft >= 0.5)
    drawn = [paste_mask(m, b, (height, width)) for m, b in zip(small, boxes, strict=True)]
    fixture.compare_masks("paste/binary0.5_skip_empty", np.stack(drawn))


def _compare_loss(fixture, name, function, layout=lambda x: x):
    """Value and gradient of `function(pred)`; `layout` turns a fixture's array into ours."""
    predicted = layout(fixture.input(f"loss/{name}/pred"))
    expected = fixture[f"loss/{name}/value"]
    value = numpy(function(predicted)).reshape(expected.shape)
    fixture.compare(f"loss/{name}/value", value, "loss")
    slope = gradient(function, predicted)
    expected = layout(fixture[f"loss/{name}/grad"])
    fixture.compare_array(f"loss/{name}/grad", expected, slope, "features")


def _region_losses(fixture):
    labels, weights = fixture.input("loss/labels"), fixture.input("loss/weights")
    _compare_loss(
        fixture, "softmax_ce", lambda x: ops.sum(losses.cross_entropy(x, labels) * weights) / 17
    )
    target = 1 - fixture.input("loss/rpn_labels(0=foreground,1=background)")
    rpn_weights = fixture.input("loss/rpn_weights")
    _compare_loss(
        fixture,
        "rpn_sigmoid_ce",
        lambda x: ops.sum(losses.binary_cross_entropy(x[:, 0], target) * rpn_weights) / 25,
    )
    boxes, box_weights = fixture.input("loss/box_target"), fixture.input("loss/box_weight")
    for name, error in {
        "l1": losses.absolute_error,
        "smooth_l1_beta1": losses.smooth_l1,
        "smooth_l1_beta1_9": lambda x, y: losses.smooth_l1(x, y, 1 / 9),
    }.items():
        _compare_loss(
            fixture, name, lambda x, error=error: ops.sum(error(x, boxes) * box_weights) / 20
        )
    quality = fixture.input("loss/iou_target")[None]

    def squared(x):
        total, count = quality_loss(x[None], quality)
        return 0.5 * total / count

    _compare_loss(fixture, "mse_w0.5", squared)


def _map_losses(fixture):
    labels, targets = fixture.input("loss/mask_labels"), fixture.input("loss/mask_target")
    found = matches([[0] * len(labels)], [labels], [[1] * len(labels)])

    def mask(x):
        total, count = mask_loss(x, targets[None].astype("float32"), found)
        return total / count

    _compare_loss(fixture, "mask_bce", mask, _nhwc)
    cells = fixture.input("loss/seg_target").astype("uint8")

    def semantic(x):
        total, _ = semantic_loss(x, cells)
        return 0.2 * total / cells.size  # the reference divides by all cells, we by the labelled

    _compare_loss(fixture, "seg_ce_ignore255_w0.2", semantic, _nhwc)


def _resampling(fixture):
    x = _nhwc(fixture.input("resample/x"))
    for name in fixture.under("resample/bilinear_ac"):
        align, *size = map(int, re.search(r"ac(\d)_(\d+)x(\d+)", name).groups())
        fixture.compare(name, _nchw(resize_bilinear(x, size, bool(align))), "features")
    # The reference takes the label at a cell's corner, we take the one at its centre.
    for name in fixture.under("resample/nearest_"):
        size = tuple(map(int, re.search(r"(\d+)x(\d+)", name).groups()))
        same = np.ix_(*(_same_neighbour(o, n) for o, n in zip(x.shape[1:3], size, strict=True)))
        ours = np.stack([resize_nearest(channel, size)[same] for channel in _nchw(x)[0]])
        expected = np.stack([channel[same] for channel in fixture[name][0]])
        fixture.compare_array(name, expected, ours, "exact")
    fixture.input("resample/seg")
    fixture.excuse("resample/seg_nearest_1_8", "labels at corners of cells; ours are at centres")


def _same_neighbour(old, new):
    """Places where taking the corner's and the centre's label is the same."""
    place = np.arange(new)
    return np.flatnonzero(place * old // new == (2 * place + 1) * old // (2 * new))


def _layers(fixture):
    x = _nhwc(fixture.input("resample/x14"))
    kernel = fixture.input("resample/deconv_w(in,out,kh,kw)").transpose(2, 3, 1, 0)
    deconvolution = layers.Conv2DTranspose(kernel.shape[2], 2, strides=2)
    deconvolution.build(x.shape)
    deconvolution.set_weights([kernel, fixture.input("resample/deconv_b")])
    fixture.compare("resample/deconv_k2s2", _nchw(deconvolution(x)), "features")
    mean = ops.average_pool(x, 2, strides=2)
    fixture.compare("resample/adaptive_avg7", _nchw(mean), "features")
    fixture.compare("resample/maxpool2", _nchw(ops.max_pool(x, 2, strides=2)), "exact")
    fixture.compare("resample/maxpool_k1s2", _nchw(x[:, ::2, ::2]), "exact")
    padded = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=float("-inf"))
    stem = ops.max_pool(padded, 3, strides=2, padding="valid")
    fixture.compare("resample/maxpool_k3s2p1", _nchw(stem), "exact")


def _picture_sizes(fixture):
    name = "rescale_size/w_h_neww_newh_for_1333x800"
    ours = [
        (w, h, *target_size(h, w, Preprocessing(short_side=800, long_side=1333))[::-1])
        for w, h in fixture[name][:, :2].tolist()
    ]
    fixture.compare(name, ours, "exact")
