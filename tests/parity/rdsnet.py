"""RDSNet's heads, masks, their losses and gradients, and MBRM, all in mmdetection 1.x's boxes.

Theirs end on their last pixel, ours one later: `_edges` and `_pixels` lead from one to the other.
"""

import re

import numpy as np
from keras import ops

from pac_keras import boxes as B
from pac_keras.conventions import PLUS_ONE
from pac_keras.heads import mbrm, pixel
from pac_keras.heads.dense import RetinaHead, flatten_levels
from pac_keras.layers import resize_bilinear
from pac_keras.masks import inside_frames
from pac_keras.structures import GroundTruth
from pac_keras.systems.rdsnet import RDSNet
from pac_keras.weights.mmdet import load_tensors, tensors_of
from pac_keras.weights.rdsnet import pixel_stream, refinement, retina_head
from tests.builders import numpy

_NORM_GROUPS = 8
_LEVELS = (3, 4, 5, 6, 7)
_TEST_PADDING, _TRAIN_PADDING = (0.1, 1.0), (0.25, 1.0)  # (share of the side, cells)
_GAMMA = 0.05
_LAST = np.float32([0, 0, 1, 1])


def compare_rdsnet(fixture, training=True):
    """Compares every array of the fixture; `training=False`: without gradients."""
    _compare_head(fixture)
    _compare_coder(fixture)
    pixels = _pixel_stream(fixture)
    for i in range(2):
        logits = _logits(fixture, pixels, i)
        expected = fixture[f"mask_head/pred_masks{i}"]
        expected = expected[..., 1] - expected[..., 0]  # ours is the difference alone
        fixture.compare_array(f"mask_head/pred_masks{i}", expected, numpy(logits)[0], "logits")
        _compare_masks(fixture, i, logits)
        _compare_rescaled(fixture, i, logits)
    _compare_crops(fixture)
    _compare_refinement(fixture)
    for ohem in (0, 1):
        loss = _loss(fixture, pixels, ohem)
        fixture.compare(f"mask_head/loss_ohem{ohem}", numpy(loss)[None], "loss")
        if training:
            _compare_gradients(fixture, pixels, ohem)
    if not training:
        for name in fixture.under("mask_head/grad_"):
            fixture.excuse(name, "gradients are compared on TensorFlow")


def _edges(boxes):
    return boxes + _LAST


def _pixels(boxes):
    return numpy(boxes) - _LAST


def _load(fixture, group, known, prefix):
    """Puts the fixture's weights into a part; `prefix`: of their names in a checkpoint."""
    theirs = fixture.under(f"{group}/w/")
    tensors = {name.replace(f"{group}/w/", prefix): fixture[name] for name in theirs}
    load_tensors(known, tensors_of(tensors), group)
    for name, tensor in known.items():
        fixture.compare(name.replace(prefix, f"{group}/w/"), tensor.theirs(), "exact")


def _nhwc(x):
    return ops.convert_to_tensor(x.transpose(0, 2, 3, 1))


def _compare_head(fixture):
    pyramid = {level: _nhwc(fixture.input(f"head/in_P{level}")) for level in _LEVELS}
    num_anchors = len(fixture["head/base_anchors_P3"])
    filters = [len(fixture[f"head/w/retina_{kind}.bias"]) for kind in ("cls", "rep")]
    sizes = [count // num_anchors for count in filters]
    channels, num_convs = pyramid[3].shape[-1], len(fixture.under("head/w/cls_convs.")) // 3
    head = RetinaHead(sizes[0], num_anchors, sizes[1], channels, num_convs, _NORM_GROUPS)
    head(pyramid)  # creates the variables
    _load(fixture, "head", retina_head(head), "bbox_head.")
    maps = head(pyramid)
    base = lambda stride: PLUS_ONE.base_anchors(stride, RDSNet.anchor_scales)  # noqa: E731
    grids = flatten_levels(maps, base)[0]
    for level, grid in zip(_LEVELS, grids, strict=True):
        for kind, ours in zip(("cls", "bbox", "rep"), maps[level], strict=True):
            name = f"head/{kind}_P{level}"
            fixture.compare(name, numpy(ours).transpose(0, 3, 1, 2), "logits")
        around_middle = base(2**level) + 2**level / 2  # theirs begin at the cell's first corner
        fixture.compare(f"head/base_anchors_P{level}", _pixels(around_middle), "exact")
        fixture.compare(f"head/anchors_P{level}", _pixels(grid), "exact")


def _compare_coder(fixture):
    anchors, objects = (_edges(fixture.input(f"legacy_coder/{x}")) for x in ("anchors", "gt"))
    boxes = B.decode_deltas(fixture.input("legacy_coder/deltas"), anchors)
    fixture.compare("legacy_coder/decode", _pixels(boxes), "boxes")
    clipped = PLUS_ONE.clip(boxes[None], _size(fixture, 0, "img")[None])[0]
    fixture.compare("legacy_coder/decode_clip", _pixels(clipped), "boxes")
    fixture.compare("legacy_coder/encode", B.encode_deltas(objects, anchors), "features")


def _pixel_stream(fixture):
    """The fixture's pixel stream, with its weights."""
    rep_channels, channels = fixture["mask_head/w/conv_reps.weight"].shape[:2]
    pixels = pixel.PixelStream(rep_channels, channels, _NORM_GROUPS)
    pixels(_pyramid(fixture))
    _load(fixture, "mask_head", pixel_stream(pixels), "mask_head.")
    return pixels


def _pyramid(fixture):
    return {level: _nhwc(fixture[f"head/in_P{level}"]) for level in (3, 4, 5)}


def _size(fixture, i, kind):
    """(height, width) of picture `i`: "img", "pad" to a multiple of 32, "ori" before resizing."""
    return fixture.input(f"mask_head/meta{i}/{kind}_shape")[:2].astype("int32")


def _logits(fixture, pixels, i, vectors=None):
    """Mask logits of picture `i`, without what is padded in the batch: `[1, N, h, w]`."""
    if vectors is None:
        vectors = ops.convert_to_tensor(fixture.input(f"mask_head/obj_rep{i}")[None])
    maps = pixels(_pyramid(fixture))
    stacked = _size(fixture, i, "stack") // pixel.STRIDE
    assert maps.shape[1:3] == tuple(stacked)
    height, width = _size(fixture, i, "pad") // pixel.STRIDE
    return pixel.correlate(vectors, maps[i : i + 1, :height, :width])


def _crop(boxes, size, padding, stride=1):
    """Frames of one picture's boxes, theirs, within `size`."""
    return PLUS_ONE.crop(_edges(boxes)[None], np.asarray(size)[None], padding, stride)


def _cropped(masks, boxes, padding, stride=1):
    """Masks `[N, h, w]`, 0 outside of what is cut out."""
    size = ops.shape(masks)[1:]
    return masks * inside_frames(_crop(boxes, size, padding, stride)[0], *size)


def _compare_masks(fixture, i, logits):
    """Masks on the pixel stream's grid and at the network's scale, and their profiles."""
    boxes = fixture.input(f"mask_head/boxes{i}")
    small = _cropped(ops.sigmoid(logits[0]), boxes, _TEST_PADDING, pixel.STRIDE)
    fixture.compare(f"mask_head/loss_final_mask{i}", small, "scores")
    boxes = fixture.input(f"mask_head/get_masks_boxes_rescale0_{i}")
    padded = tuple(map(int, _size(fixture, i, "pad")))
    height, width = np.minimum(_size(fixture, i, "img"), padded)
    frames = _crop(boxes, (height, width), _TEST_PADDING)
    name = f"mask_head/get_masks_rescale0_{i}"
    masks = numpy(ops.sigmoid(mbrm.full_logits(logits, frames, *padded)))[0]
    fixture.compare(name, masks[:, :height, :width], "scores")
    columns, rows = mbrm.mask_profiles(logits, frames, *padded)
    expected = fixture[name]
    columns, rows = numpy(columns)[0, :, :width], numpy(rows)[0, :, :height]
    fixture.compare_array(name, expected.max(axis=1), columns, "scores")
    fixture.compare_array(name, expected.max(axis=2), rows, "scores")


def _compare_rescaled(fixture, i, logits):
    """Masks at the picture's own scale, which this library never makes, of its functions."""
    boxes = fixture.input(f"mask_head/get_masks_boxes_rescale1_{i}")
    height, width = _size(fixture, i, "img")
    x = resize_bilinear(logits[0][..., None], tuple(map(int, _size(fixture, i, "pad"))))
    x = resize_bilinear(x[:, :height, :width], _size(fixture, i, "ori"), align_corners=True)
    masks = _cropped(ops.sigmoid(x[..., 0]), boxes, _TEST_PADDING)
    fixture.compare(f"mask_head/get_masks_rescale1_{i}", masks, "scores")


def _compare_crops(fixture):
    boxes = fixture["mask_head/boxes0"]
    for name in fixture.under("crop/pad"):
        text = re.fullmatch(r"crop/pad(.+)", name)[1]
        padding = float(text)
        padding = (padding, 1.0) if 0 < padding < 1 else (0.0, padding)
        size = fixture[name].shape[1:]
        frames = _crop(boxes, size, padding)[0]
        fixture.compare(f"crop/x1x2_pad{text}", numpy(frames)[:, ::2], "exact")
        fixture.compare(name, inside_frames(frames, *size), "exact")


def _compare_refinement(fixture):
    layer = mbrm.MBRM(_GAMMA)
    known = refinement(layer)
    load_tensors(known, {name: fixture[name.replace(".", "/")] for name in known}, "MBRM")
    for name, tensor in known.items():
        fixture.compare(name.replace(".", "/"), tensor.theirs(), "exact")
    for i in (0, 1):
        masks = fixture[f"mask_head/get_masks_rescale1_{i}"]
        boxes = fixture[f"mask_head/get_masks_boxes_rescale1_{i}"]
        scores = fixture.input(f"mbrm/scores{i}")
        found = _refine(fixture, layer, masks, boxes, f"mbrm/dist_{{}}{i}")
        fixture.compare(f"mbrm/boxes{i}", np.concatenate([found, scores], axis=1), "exact")
    masks, boxes = fixture.input("mbrm/case2_masks"), fixture.input("mbrm/case2_boxes_in")
    found = _refine(fixture, layer, masks, boxes, "mbrm/case2_dist_{}")
    found = np.pad(found, ((0, 0), (0, 1)), constant_values=1.0)  # their scores
    fixture.compare("mbrm/case2_boxes_out", found, "exact")


def _refine(fixture, layer, masks, boxes, pattern):
    """Theirs of our refined boxes; compares the posteriors on the way."""
    edges = ops.convert_to_tensor(_edges(boxes)[None])
    profiles = (ops.convert_to_tensor(masks.max(axis=axis)[None]) for axis in (1, 2))
    posteriors = layer(*profiles, edges, np.int32([masks.shape[1:]]))
    for side, posterior in zip("ltrb", posteriors, strict=True):
        fixture.compare(pattern.format(side), numpy(posterior)[0], "scores")
    return _pixels(mbrm.likeliest_boxes(posteriors, edges))[0]


def _compare_gradients(fixture, pixels, ohem):
    import tensorflow as tf

    vectors = [tf.constant(fixture[f"mask_head/obj_rep{i}"][None]) for i in range(2)]
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        loss = _loss(fixture, pixels, ohem, vectors)
    known = pixel_stream(pixels)
    names = [f"mask_head.{name}" for name in fixture.input("mask_head/grad_names")]
    variables = [known[name].variable.value for name in names]
    gradients = [numpy(x) for x in tape.gradient(loss, [*vectors, *variables])]
    for i in range(2):
        fixture.compare(f"mask_head/grad_obj_rep{i}_ohem{ohem}", gradients[i][0], "gradient")
    norms = [np.linalg.norm(gradient) for gradient in gradients[2:]]
    fixture.compare_each(f"mask_head/grad_l2_ohem{ohem}", norms, "gradient")


def _loss(fixture, pixels, ohem, vectors=(None, None)):
    """The mean loss of both pictures' masks; theirs counts one mask more than there are."""
    losses = [_mask_loss(fixture, pixels, i, vectors[i], bool(ohem)) for i in range(2)]
    total, count = (sum(parts) for parts in zip(*losses, strict=True))
    return total / (count + 1.0)


def _mask_loss(fixture, pixels, i, vectors, ohem):
    """(sum, count) of picture `i`'s masks."""
    logits = _logits(fixture, pixels, i, vectors)
    masks = fixture.input(f"mask_head/gt_masks{i}")[None]
    size, cells = masks.shape[2:], logits.shape[2:]
    frames = np.tile(np.float32([0, 0, size[1], size[0]]), (1, masks.shape[1], 1))
    truth = GroundTruth(frames, None, masks, frames, None, None)
    crops = _crop(fixture[f"mask_head/boxes{i}"], cells, _TRAIN_PADDING, pixel.STRIDE)
    valid = np.ones(masks.shape[:2], "float32")
    return pixel.mask_loss(logits, pixel.object_masks(truth, *cells), crops, valid, ohem)
