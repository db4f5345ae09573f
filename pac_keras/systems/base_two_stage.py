"""What every two-stage system shares: backbone, pyramid, proposals, sampling, final detections."""

import keras
from keras import ops

from pac_keras.detections.select import select
from pac_keras.losses import smooth_l1
from pac_keras.proposals.rpn import RPN, propose, rpn_loss
from pac_keras.pyramid.fpn import FPN
from pac_keras.roi.sampling import sample_rois
from pac_keras.structures import PADDING, Detections
from pac_keras.systems.base import InstanceSegmenter

RPN_LOSSES = ("rpn_objectness", "rpn_box")
_RPN_BETA = 1 / 9  # of smooth L1, as in Detectron


def _rpn_error(predicted, target):
    return smooth_l1(predicted, target, _RPN_BETA)


class TwoStageSegmenter(InstanceSegmenter):
    """Base of the systems that classify and refine regions of a feature pyramid.

    Args:
        num_classes, backbone, base_channels, frozen_stages, norm, sampling: see
            `InstanceSegmenter`.
        channels: width of pyramid, RPN, mask and semantic branches.
        fc_channels: width of fully connected layers.
        sampling_ratio: samples per bin and axis of RoIAlign, 0 = adaptive (see `roi_align`).
        pre_nms: anchors per level that enter the proposals, (training, inference).
        max_proposals: proposals per picture, (training, inference).
        score_threshold: class scores must exceed it.
        nms_threshold: IoU from which the worse of two detections of a class is dropped.
        max_candidates: (box, class) pairs that enter the final suppression; see `select`.
        max_detections: D, per picture.
        rpn_samples, roi_samples: anchors, and regions of each stage, trained on per picture.
    """

    def __init__(
        self,
        num_classes,
        backbone,
        *,
        base_channels=64,
        frozen_stages=1,
        norm="frozen",
        channels=256,
        fc_channels=1024,
        sampling_ratio=2,
        pre_nms=(2000, 1000),
        max_proposals=(2000, 1000),
        score_threshold=0.05,
        nms_threshold=0.5,
        max_candidates=4000,
        max_detections=100,
        rpn_samples=256,
        roi_samples=512,
        sampling="random",
        **kwargs,
    ):
        shared = base_channels, frozen_stages, norm, sampling
        super().__init__(num_classes, backbone, *shared, **kwargs)
        self.pyramid = FPN(channels)
        self.rpn = RPN(channels)
        self.channels, self.fc_channels = channels, fc_channels
        self.sampling_ratio = sampling_ratio
        self.pre_nms, self.max_proposals = tuple(pre_nms), tuple(max_proposals)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_candidates, self.max_detections = max_candidates, max_detections
        self.rpn_samples, self.roi_samples = rpn_samples, roi_samples
        self.random = keras.random.SeedGenerator()

    def propose(self, maps, sizes, training=False):
        """Proposals of the RPN's maps, Rois without gradient."""
        which = 0 if training else 1
        return propose(maps, sizes, self.pre_nms[which], self.max_proposals[which])[0]

    def rpn_losses(self, maps, sizes, ground_truth, box_error=_rpn_error, border=0):
        """{"rpn_objectness", "rpn_box"}: (sum, count), see `rpn_loss`."""
        losses = rpn_loss(
            maps, sizes, ground_truth, box_error, self.rpn_samples, self.sampling_priority, border
        )
        return {f"rpn_{name}": loss for name, loss in losses.items()}

    def sample(self, rois, ground_truth, iou_threshold, low_quality=True):
        """Regions to train a stage on and their matches, see `sample_rois`."""
        return sample_rois(
            rois,
            ground_truth,
            self.num_classes,
            iou_threshold,
            self.roi_samples,
            self.sampling_priority,
            low_quality,
        )

    def select(self, boxes, scores):
        """The final Detections, still without masks, of refined boxes and class scores.

        Args:
            boxes: float32 `[B, R, 4]`, or `[B, R, K, 4]` where each class has its own.
            scores: float32 `[B, R, K]`.
        """
        rows, labels, scores, valid = select(
            boxes,
            scores,
            self.score_threshold,
            self.nms_threshold,
            self.max_candidates,
            self.max_detections,
        )
        if len(boxes.shape) == 4:
            rows = rows * boxes.shape[2] + labels
            boxes = ops.reshape(boxes, (-1, boxes.shape[1] * boxes.shape[2], 4))
        boxes = ops.take_along_axis(boxes, rows[..., None], axis=1) * valid[..., None]
        labels = ops.where(valid > 0.0, labels, PADDING)
        return Detections(boxes, labels, scores, scores, None, boxes)
