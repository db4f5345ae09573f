"""Box stages: one, or a cascade of three.

Source: Cai and Vasconcelos 2018 (Cascade R-CNN), section 4.
"""

from keras import layers, ops

from pac_keras.boxes import clip_boxes, decode_deltas
from pac_keras.heads.box import BoxHead

_IOU_THRESHOLDS = (0.5, 0.6, 0.7)
_DELTA_SCALES = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
_LOSS_WEIGHTS = (1.0, 0.5, 0.25)
BOX_LOSSES = tuple(f"stage{i}_{part}" for i in (1, 2, 3) for part in ("class", "box"))
STAGE_LOSSES = tuple(f"stage{i}_{part}" for i in (1, 2, 3) for part in ("class", "box", "mask"))


def box_stage(num_classes, fc_channels=1024):
    """The one BoxStage of systems without cascade: each class has its own deltas."""
    head = BoxHead(num_classes, fc_channels, class_specific=True)
    return BoxStage(head, _IOU_THRESHOLDS[0], _DELTA_SCALES[0], _LOSS_WEIGHTS[0])


def box_stages(num_classes, fc_channels=1024):
    """Three BoxStages: stricter, finer, and of less weight from one to the next."""
    return [
        BoxStage(BoxHead(num_classes, fc_channels), *settings)
        for settings in zip(_IOU_THRESHOLDS, _DELTA_SCALES, _LOSS_WEIGHTS, strict=True)
    ]


class BoxStage(layers.Layer):
    """A box head with its settings.

    Args:
        head: BoxHead.
        iou_threshold: IoU from which a region is positive.
        delta_scale: four numbers that the targets of its deltas are divided by.
        loss_weight: of all losses of the stage.

    `call(features [N, 7, 7, C])` answers what the head answers. Boxes never enter `call`, since
    Keras would cast them to half precision under a mixed policy: `refine` takes them.
    """

    def __init__(self, head, iou_threshold, delta_scale, loss_weight, **kwargs):
        super().__init__(**kwargs)
        self.head = head
        self.iou_threshold = iou_threshold
        self.delta_scale = delta_scale
        self.loss_weight = loss_weight

    def call(self, features):
        return self.head(features)

    def predict(self, pool, rois):
        """Class logits `[B, R, K + 1]` and deltas `[B, R, (K,) 4]` of `rois`, float32."""
        logits, deltas = self(pool(rois.boxes, 7))
        count = rois.boxes.shape[1]
        return tuple(ops.reshape(x, (-1, count, *x.shape[1:])) for x in (logits, deltas))

    def hidden(self, pool, boxes):
        """What the head knows of `boxes` `[B, R, 4]` before it answers: `[B * R, fc_channels]`."""
        return self.head.hidden(pool(boxes, 7))

    def refine(self, rois, deltas, sizes):
        """`rois` moved by `deltas`, inside the pictures, without gradient.

        Rows that were ground-truth boxes become invalid: they will be appended again.
        """
        boxes = decode_deltas(ops.stop_gradient(deltas), rois.boxes, self.delta_scale)
        valid = rois.valid * (1.0 - rois.is_truth)
        boxes = clip_boxes(boxes, sizes) * valid[..., None]
        return rois._replace(boxes=boxes, valid=valid, is_truth=ops.zeros_like(valid))


def boxes_of_classes(stage, pool, rois, sizes):
    """Every class's box of each region, and class probabilities, of a class-specific stage.

    Returns:
        boxes float32 `[B, R, K, 4]` inside the pictures, and scores as of `refine_boxes`.
    """
    logits, deltas = stage.predict(pool, rois)
    boxes = decode_deltas(deltas, rois.boxes[:, :, None], stage.delta_scale)
    flat = clip_boxes(ops.reshape(boxes, (-1, boxes.shape[1] * boxes.shape[2], 4)), sizes)
    scores = ops.softmax(logits, axis=-1)[..., :-1]
    return ops.reshape(flat, (-1, *boxes.shape[1:])), scores * rois.valid[..., None]


def refine_boxes(stages, pool, rois, sizes):
    """Boxes after all stages, and class probabilities from the mean of the stages' logits.

    Args:
        stages: BoxStages.
        pool: source of features, see `roi/features.py`.
        rois: Rois `[B, R]`.
        sizes: `[B, 2]`.

    Returns:
        Rois, and float32 `[B, R, K]` in [0, 1] without background, 0 on invalid rows.
    """
    total = 0.0
    for stage in stages:
        logits, deltas = stage.predict(pool, rois)
        rois = stage.refine(rois, deltas, sizes)
        total = total + logits
    scores = ops.softmax(total / len(stages), axis=-1)[..., :-1]
    return rois, scores * rois.valid[..., None]
