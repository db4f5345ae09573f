"""RDSNet on RetinaNet: objects and pixels meet in a correlation, and masks correct the boxes.

Source: Wang et al. 2020 (RDSNet), and its public code.
"""

import keras
from keras import ops

from pac_keras.detections.select import select
from pac_keras.heads.dense import RetinaHead, dense_box_loss, focal_loss, match_anchors
from pac_keras.heads.pixel import PixelStream
from pac_keras.losses import smooth_l1
from pac_keras.pyramid.fpn import RetinaFPN
from pac_keras.systems.base_one_stage import OneStageSegmenter

_BETA = 0.11  # of smooth L1


@keras.saving.register_keras_serializable("pac_keras")
class RDSNet(OneStageSegmenter):
    """Finds objects among all anchors; their vectors, correlated with the pixels', are masks.

    `MBRM`, which moves the boxes to the masks' edges, is trained in a second run:
    `trained_part="box_refinement"`, starting from the weights of the first.

    Args:
        num_classes, backbone, **shared: see `OneStageSegmenter`.
        num_convs: of each tower of the head.
        norm_groups: of group normalisation in head and pixel stream.
        max_candidates: (box, class) pairs that enter the final suppression; see `select`.
    """

    anchor_scales = tuple(4 * 2 ** (octave / 3) for octave in range(3))

    def __init__(
        self,
        num_classes=80,
        backbone="resnet50",
        *,
        channels=256,
        rep_channels=32,
        num_convs=4,
        norm_groups=32,
        max_candidates=4000,
        **shared,
    ):
        super().__init__(
            num_classes, backbone, channels=channels, rep_channels=rep_channels, **shared
        )
        self.max_candidates = max_candidates
        self.pyramid = RetinaFPN(channels)
        sizes = channels, num_convs, norm_groups
        self.head = RetinaHead(num_classes, self.num_anchors, self.vector_size, *sizes)
        self.pixels = PixelStream(rep_channels, channels, norm_groups, self.linear)
        self.start("class", "box", "mask")

    def call(self, images):
        found, logits = self.segment(images)
        return self.refine(found, logits, images.sizes)

    def segment(self, images):
        """Detections as the head regressed them, and the logits of their masks."""
        pyramid = self.encode(images)
        boxes, scores, vectors = self.candidates(self.head(pyramid), images.sizes, ops.sigmoid)
        limits = self.score_threshold, self.nms_threshold
        chosen = select(boxes, scores, *limits, self.max_candidates, self.max_detections)
        return self.with_masks(chosen, boxes, vectors, self.pixels(pyramid), images.sizes)

    def training_losses(self, batch, training=True):
        images, truth = batch
        if self.trained_part == "box_refinement":
            found, logits = self.segment(images)
            return {"edges": self.refinement_loss(found, logits, truth, images.sizes)}
        pyramid = self.encode(images, training)
        anchors, logits, deltas, vectors = self.flatten_all(self.head(pyramid))
        matches = match_anchors(anchors, images.sizes, truth)
        error = lambda predicted, target: smooth_l1(predicted, target, _BETA)  # noqa: E731
        return {
            "class": focal_loss(logits, matches),
            "box": dense_box_loss(deltas, anchors, matches, truth, error, self.delta_scale),
            "mask": self.mask_loss(vectors, matches, self.pixels(pyramid), truth, images.sizes),
        }
