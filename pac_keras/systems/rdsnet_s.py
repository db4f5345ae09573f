"""RDSNet_s: RDSNet on YOLACT's detector, for real time.

Source: Wang et al. 2020 (RDSNet), table 3; Bolya et al. 2019 (YOLACT). Neither has public code for
it; what the paper leaves open is as in YOLACT.
"""

import keras
from keras import ops

from pac_keras.detections.select import select_fast
from pac_keras.heads.dense import YOLACTHead, dense_box_loss, hard_negative_loss, match_anchors
from pac_keras.heads.pixel import Protonet
from pac_keras.heads.semantic import ClassMapHead, class_map_loss
from pac_keras.losses import smooth_l1, weighted
from pac_keras.pyramid.fpn import RetinaFPN
from pac_keras.systems.base_one_stage import OneStageSegmenter

_BOX_LOSS_WEIGHT = 1.5


@keras.saving.register_keras_serializable("pac_keras")
class RDSNetS(OneStageSegmenter):
    """RDSNet with a shallower head, softmax and Fast NMS; pictures of 550 px.

    Args:
        num_classes, backbone, **shared: see `OneStageSegmenter`.
        max_candidates: boxes of each class that enter the final suppression; see `select_fast`.
        semantic_branch: a segmentation of P3 that is trained, and not used otherwise.
    """

    anchor_scales = (3,)
    delta_scale = (0.1, 0.1, 0.2, 0.2)

    def __init__(
        self,
        num_classes=80,
        backbone="resnet101",
        *,
        channels=256,
        rep_channels=32,
        box_refinement="none",
        max_candidates=200,
        semantic_branch=True,
        **shared,
    ):
        sizes = {"channels": channels, "rep_channels": rep_channels}
        super().__init__(num_classes, backbone, **sizes, box_refinement=box_refinement, **shared)
        self.max_candidates = max_candidates
        self.pyramid = RetinaFPN(channels, bilinear=True)
        self.head = YOLACTHead(num_classes, self.num_anchors, self.vector_size, channels)
        self.pixels = Protonet(rep_channels, channels, self.linear)
        self.semantic = ClassMapHead(num_classes, channels) if semantic_branch else None
        self.start("class", "box", "mask", semantic_branch and "semantic")

    def call(self, images):
        found, logits = self.segment(images)
        return self.refine(found, logits, images.sizes)

    def segment(self, images):
        """Detections as the head regressed them, and the logits of their masks."""
        pyramid = self.encode(images)
        boxes, scores, vectors = self.candidates(self.head(pyramid), images.sizes, _class_scores)
        limits = self.score_threshold, self.nms_threshold
        chosen = select_fast(boxes, scores, *limits, self.max_candidates, self.max_detections)
        return self.with_masks(chosen, boxes, vectors, self.pixels(pyramid), images.sizes)

    def training_losses(self, batch, training=True):
        images, truth = batch
        if self.trained_part == "box_refinement":
            found, logits = self.segment(images)
            return {"edges": self.refinement_loss(found, logits, truth, images.sizes)}
        pyramid = self.encode(images, training)
        anchors, logits, deltas, vectors = self.flatten_all(self.head(pyramid))
        matches = match_anchors(anchors, images.sizes, truth, ties=False)
        box = dense_box_loss(deltas, anchors, matches, truth, smooth_l1, self.delta_scale)
        losses = {
            "class": hard_negative_loss(logits, matches),
            "box": weighted(box, _BOX_LOSS_WEIGHT),
            "mask": self.mask_loss(vectors, matches, self.pixels(pyramid), truth, images.sizes),
        }
        if self.semantic is not None:
            losses["semantic"] = class_map_loss(self.semantic(pyramid[3]), truth, images.sizes)
        return losses


def _class_scores(logits):
    return ops.softmax(logits, axis=-1)[..., :-1]
