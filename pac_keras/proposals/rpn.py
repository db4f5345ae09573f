"""Region proposal network: head, proposals, targets and loss.

Source: Ren et al. 2015 on a feature pyramid (Lin et al. 2017).
"""

from keras import layers, ops

from pac_keras.boxes import clip_boxes, decode_deltas, encode_deltas, not_empty
from pac_keras.detections.select import nms
from pac_keras.layers import normal_init
from pac_keras.losses import binary_cross_entropy
from pac_keras.proposals.anchors import ASPECT_RATIOS, anchor_grid, base_anchors, inside_picture
from pac_keras.roi.sampling import match, sample_rows
from pac_keras.structures import Rois

_NMS_THRESHOLD = 0.7
_POSITIVE_IOU, _NEGATIVE_IOU = 0.7, 0.3
_POSITIVE_FRACTION = 0.5


class RPN(layers.Layer):
    """One convolution shared by all levels, then objectness and box deltas of 3 anchors a cell.

    `call({l: [B, h, w, C]}) -> {l: (logits [B, h, w, 3], deltas [B, h, w, 12])}`, float32.
    """

    def __init__(self, channels=256, **kwargs):
        super().__init__(**kwargs)
        anchors = len(ASPECT_RATIOS)
        self.shared = layers.Conv2D(
            channels, 3, padding="same", activation="relu", kernel_initializer=normal_init(0.01)
        )
        self.objectness = _prediction(anchors)
        self.deltas = _prediction(4 * anchors)

    def call(self, pyramid):
        maps = {}
        for level, features in pyramid.items():
            x = self.shared(features)
            maps[level] = (self.objectness(x), self.deltas(x))
        return maps


def _prediction(filters):
    return layers.Conv2D(filters, 1, kernel_initializer=normal_init(0.01), dtype="float32")


def flatten_levels(maps):
    """The maps of `RPN` as lists over levels: anchors `[N, 4]`, logits `[B, N]`, deltas `[B, N, 4]`

    N counts (y, x, ratio) in row-major order.
    """
    anchors, logits, deltas = [], [], []
    for level, (level_logits, level_deltas) in sorted(maps.items()):
        height, width = ops.shape(level_logits)[1:3]
        anchors.append(anchor_grid(height, width, 2**level, base_anchors(2**level)))
        logits.append(ops.reshape(level_logits, (ops.shape(level_logits)[0], -1)))
        deltas.append(ops.reshape(level_deltas, (ops.shape(level_deltas)[0], -1, 4)))
    return anchors, logits, deltas


def propose(maps, sizes, pre_nms, max_proposals):
    """The regions that look most like objects, best first.

    Per level the best `pre_nms` anchors are decoded, clipped to the picture and suppressed at IoU
    0.7; the best `max_proposals` of all levels remain. No gradient flows through them.

    Args:
        maps: what `RPN` answers.
        sizes: `[B, 2]`, (height, width) of the pictures.
        pre_nms, max_proposals: static counts.

    Returns:
        Rois with `max_proposals` rows, and their objectness float32 `[B, R]` in [0, 1].
    """
    boxes, scores = [], []
    for anchors, logits, deltas in zip(*flatten_levels(maps), strict=True):
        level_scores, rows = top_anchors(ops.stop_gradient(logits), pre_nms)
        level_deltas = ops.take_along_axis(ops.stop_gradient(deltas), rows[..., None], axis=1)
        level_boxes = decode_deltas(level_deltas, ops.take(anchors, rows, axis=0))
        level_boxes = clip_boxes(level_boxes, sizes)
        level_scores = ops.where(not_empty(level_boxes), level_scores, -1.0)
        kept, valid = nms(level_boxes, level_scores, _NMS_THRESHOLD, level_boxes.shape[1])
        boxes.append(ops.take_along_axis(level_boxes, kept[..., None], axis=1))
        level_scores = ops.take_along_axis(level_scores, kept, axis=1)
        scores.append(ops.where(valid > 0.0, level_scores, -1.0))
    boxes, scores = ops.concatenate(boxes, axis=1), ops.concatenate(scores, axis=1)
    missing = max(max_proposals - boxes.shape[1], 0)
    boxes = ops.pad(boxes, ((0, 0), (0, missing), (0, 0)))
    scores = ops.pad(scores, ((0, 0), (0, missing)), constant_values=-1.0)
    scores, rows = ops.top_k(scores, max_proposals)
    valid = ops.cast(scores >= 0.0, "float32")
    boxes = ops.take_along_axis(boxes, rows[..., None], axis=1) * valid[..., None]
    return Rois(boxes, valid, ops.zeros_like(valid)), scores * valid


def top_anchors(logits, count):
    """The `count` best of `logits` `[B, N]` as (probabilities, rows); -1 where N is smaller.

    Where N is unknown while tracing, it is padded so that `count` columns always exist.
    """
    total = logits.shape[1]
    if total is not None and total <= count:
        logits, rows = ops.top_k(logits, total)
        return ops.sigmoid(logits), rows
    if total is None:
        padding = ops.full((ops.shape(logits)[0], count), float("-inf"), dtype=logits.dtype)
        total = ops.shape(logits)[1]
        logits = ops.concatenate([logits, padding], axis=1)
    logits, rows = ops.top_k(logits, count)
    scores = ops.where(logits > float("-inf"), ops.sigmoid(logits), -1.0)
    return scores, ops.minimum(rows, total - 1)


def rpn_loss(maps, sizes, ground_truth, box_error, num_samples, priority, border=0):
    """Objectness and box loss of sampled anchors: {"objectness": (sum, count), "box": ...}.

    Both counts are the number of sampled anchors, positive and negative.

    Args:
        maps: what `RPN` answers.
        sizes: `[B, 2]`, (height, width) of the pictures.
        ground_truth: GroundTruth.
        box_error: elementwise function (predicted, target) -> error.
        num_samples: anchors per picture, at most half of them positive.
        priority: function of a shape -> float32; of each kind the highest are sampled.
        border: only anchors inside the picture are used, see `inside_picture`.
    """
    anchors, logits, deltas = (
        ops.concatenate(x, axis=-2 if x[0].shape[-1] == 4 else -1) for x in flatten_levels(maps)
    )
    boxes = ops.broadcast_to(anchors[None], (ops.shape(sizes)[0], *ops.shape(anchors)))
    matches = match(
        boxes,
        inside_picture(anchors, sizes, border),
        ground_truth,
        thresholds=(_NEGATIVE_IOU, _POSITIVE_IOU),
        low_quality=_NEGATIVE_IOU,
        visible=clip_boxes(boxes, sizes),
    )
    rows, valid, positive = sample_rows(matches, num_samples, _POSITIVE_FRACTION, priority)
    logits = ops.take_along_axis(logits, rows, axis=1)
    deltas = ops.take_along_axis(deltas, rows[..., None], axis=1)
    objects = ops.take_along_axis(matches.objects, rows, axis=1)
    object_boxes = ops.take_along_axis(ground_truth.boxes, objects[..., None], axis=1)
    target = encode_deltas(object_boxes, ops.take(anchors, rows, axis=0))
    count = ops.sum(valid)
    objectness = ops.sum(valid * binary_cross_entropy(logits, positive))
    error = ops.sum(positive[..., None] * box_error(deltas, target))
    return {"objectness": (objectness, count), "box": (error, count)}
