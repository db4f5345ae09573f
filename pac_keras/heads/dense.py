"""Heads that answer for every anchor of a pyramid at once, their targets and losses.

Their `call({l: [B, h, w, C]}) -> {l: (logits [B, h, w, A * k], deltas [B, h, w, 4 A], vectors
[B, h, w, A * V])}`, float32; A anchors a cell, k classes, V numbers that describe an object's mask.
"""

import math

from keras import initializers, layers, ops

from pac_keras.boxes import clip_boxes, encode_deltas
from pac_keras.layers import ConvGroupNorm, conv_relu, normal_init
from pac_keras.losses import cross_entropy, focal, hardest
from pac_keras.proposals.anchors import anchor_grid, inside_picture
from pac_keras.roi.sampling import NO_OBJECT, match

_THRESHOLDS = (0.4, 0.5)  # IoU with an object: below, background; from, positive
_ANY_OVERLAP = 1e-6  # IoU that an object's best anchor must have
_PRIOR = 0.01  # probability of a class at the start
_NEGATIVES = 3  # per positive anchor


class RetinaHead(layers.Layer):
    """RetinaNet's towers of convolutions with group norm, and a third one for vectors.

    k = `num_classes`, for a sigmoid.

    Source: Lin et al. 2017 (RetinaNet); Wang et al. 2020 (RDSNet), section 3.1, and public code.
    """

    def __init__(
        self, num_classes, num_anchors, vector_size, channels, num_convs=4, norm_groups=32, **kwargs
    ):
        super().__init__(**kwargs)
        self.towers = [
            [ConvGroupNorm(channels, norm_groups, normal_init(0.01)) for _ in range(num_convs)]
            for _ in range(3)
        ]
        bias = initializers.Constant(-math.log(1 / _PRIOR - 1))
        self.classes = _prediction(num_anchors * num_classes, normal_init(0.01), bias)
        self.deltas = _prediction(4 * num_anchors, normal_init(0.01))
        self.vectors = _prediction(num_anchors * vector_size, normal_init(0.01))

    def call(self, pyramid):
        return {level: self._level(features) for level, features in pyramid.items()}

    def _level(self, features):
        answers = []
        for tower, prediction in zip(
            self.towers, (self.classes, self.deltas, self.vectors), strict=True
        ):
            x = features
            for conv in tower:
                x = conv(x)
            answers.append(prediction(x))
        return tuple(answers)


class YOLACTHead(layers.Layer):
    """One shared convolution before the three predictions; k = `num_classes` + 1, for a softmax.

    Source: Bolya et al. 2019 (YOLACT), section 4; the background is the last class.
    """

    def __init__(self, num_classes, num_anchors, vector_size, channels, **kwargs):
        super().__init__(**kwargs)
        self.shared = conv_relu(channels)
        self.classes = _prediction(num_anchors * (num_classes + 1))
        self.deltas = _prediction(4 * num_anchors)
        self.vectors = _prediction(num_anchors * vector_size)

    def call(self, pyramid):
        maps = {}
        for level, features in pyramid.items():
            x = self.shared(features)
            maps[level] = (self.classes(x), self.deltas(x), self.vectors(x))
        return maps


def _prediction(filters, kernel="glorot_uniform", bias="zeros"):
    return layers.Conv2D(
        filters,
        3,
        padding="same",
        kernel_initializer=kernel,
        bias_initializer=bias,
        dtype="float32",
    )


def flatten_levels(maps, base_anchors):
    """Lists over levels: anchors `[N, 4]`, logits `[B, N, k]`, deltas `[B, N, 4]`, vectors.

    N counts (y, x, anchor). An anchor is centred on the middle of its cell.

    Args:
        maps: what a head answers.
        base_anchors: function of the stride -> `[A, 4]`.
    """
    lists = [], [], [], []
    for level, fields in sorted(maps.items()):
        base = base_anchors(2**level)
        height, width = ops.shape(fields[0])[1:3]
        lists[0].append(anchor_grid(height, width, 2**level, base, centre=0.5))
        for values, field in zip(lists[1:], fields, strict=True):
            size = field.shape[-1] // len(base)
            values.append(ops.reshape(field, (ops.shape(field)[0], -1, size)))
    return lists


def match_anchors(anchors, sizes, ground_truth, ties=True):
    """Matches of all anchors `[N, 4]`; those centred outside the pictures are ignored.

    Every object has the anchor that overlaps it most, whatever their IoU, unless a later object
    has the same one.

    Args:
        sizes: `[B, 2]`, (height, width) of the pictures; an anchor counts up to the canvas that
            their padding to a multiple of 32 makes.
        ties: whether all anchors that overlap an object most are its own, or the first alone.
    """
    boxes = ops.broadcast_to(anchors[None], (ops.shape(sizes)[0], *ops.shape(anchors)))
    return match(
        boxes,
        inside_picture(anchors, sizes, border=None),
        ground_truth,
        thresholds=_THRESHOLDS,
        low_quality=_ANY_OVERLAP,
        visible=clip_boxes(boxes, sizes),
        ties=ties,
    )


def focal_loss(logits, matches):
    """Focal loss of `logits` `[B, N, K]` over all anchors that are not ignored, as (sum, count).

    The count is the number of positive anchors, in each picture at least 1.
    Source: Lin et al. 2017 (RetinaNet), section 4; the count as in mmdetection.
    """
    classes = ops.arange(logits.shape[-1], dtype="int32")
    positive = matches.positive[..., None] > 0.0
    targets = ops.cast(positive & (matches.labels[..., None] == classes), "float32")
    counted = positive[..., 0] | (matches.labels == NO_OBJECT)
    error = ops.sum(focal(logits, targets), axis=-1)
    count = ops.maximum(ops.sum(matches.positive, axis=1), 1.0)
    return ops.sum(error * ops.cast(counted, "float32")), ops.sum(count)


def hard_negative_loss(logits, matches):
    """Cross entropy of `logits` `[B, N, K + 1]` over positives and the hardest background.

    (sum, count); of the background the three anchors per positive one with the largest loss, in
    each picture. The count is the number of positive anchors.
    Source: Liu et al. 2016 (SSD), section 2.2, as in YOLACT.
    """
    background = logits.shape[-1] - 1
    error = cross_entropy(logits, ops.where(matches.positive > 0.0, matches.labels, background))
    candidates = ops.cast(matches.labels == NO_OBJECT, "float32")
    count = ops.sum(matches.positive, axis=1)
    kept = matches.positive + hardest(error, candidates, _NEGATIVES * count)
    return ops.sum(kept * error), ops.sum(count)


def dense_box_loss(deltas, anchors, matches, ground_truth, box_error, scale):
    """Error of the positive anchors' deltas as (sum, count); the count is that of `focal_loss`.

    Args:
        deltas: float32 `[B, N, 4]`.
        anchors: float32 `[N, 4]`.
        box_error: elementwise function (predicted, target) -> error.
        scale: four numbers that targets are divided by.
    """
    boxes = ops.take_along_axis(ground_truth.boxes, matches.objects[..., None], axis=1)
    error = box_error(deltas, encode_deltas(boxes, anchors, scale))
    count = ops.maximum(ops.sum(matches.positive, axis=1), 1.0)
    return ops.sum(matches.positive[..., None] * error), ops.sum(count)
