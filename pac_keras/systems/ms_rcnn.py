"""Mask Scoring R-CNN: Mask R-CNN whose score knows its mask. Source: Huang et al. 2019."""

import keras

from pac_keras.cascade import box_stage, boxes_of_classes
from pac_keras.choices import check_choice
from pac_keras.heads import quality as mq
from pac_keras.heads.box import box_loss
from pac_keras.heads.mask import mask_cascade, mask_heads, mask_loss, mask_targets, stage_masks
from pac_keras.losses import absolute_error, weighted
from pac_keras.roi.features import from_pyramid
from pac_keras.roi.sampling import positives
from pac_keras.systems.base_two_stage import RPN_LOSSES, TwoStageSegmenter

_THRESHOLDS = {"probability": 0.0, "logit": 0.5}  # logits


@keras.saving.register_keras_serializable("pac_keras")
class MaskScoringRCNN(TwoStageSegmenter):
    """Mask R-CNN with predicted mask quality.

    Args:
        num_classes, backbone, **shared: see `TwoStageSegmenter`.
        rescore: "segm" ranks masks by class score times predicted IoU, as published; "both" boxes
            too.
        quality_loss_weight: of the squared error of the predicted IoU.
        quality_threshold: what is compared with one half to binarise a mask for the IoU target:
            its "probability", or, as mmdetection does, its "logit".
    """

    def __init__(
        self,
        num_classes=80,
        backbone="resnet50",
        *,
        rescore="segm",
        quality_loss_weight=0.5,
        quality_threshold="probability",
        max_proposals=(1000, 1000),
        **shared,
    ):
        super().__init__(num_classes, backbone, max_proposals=max_proposals, **shared)
        check_choice("quality_threshold", quality_threshold, tuple(_THRESHOLDS))
        self.rescore = rescore
        self.quality_loss_weight = quality_loss_weight
        self.quality_threshold = _THRESHOLDS[quality_threshold]
        self.stage = box_stage(num_classes, self.fc_channels)
        self.mask_heads = mask_heads(1, num_classes, self.channels)
        self.quality = mq.MaskQualityHead(num_classes, self.channels, self.fc_channels)
        self.finish(*RPN_LOSSES, "class", "box", "mask", "quality")

    def call(self, images):
        pyramid = self.encode(images)
        pool = from_pyramid(pyramid, self.sampling_ratio)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        found = self.select(*boxes_of_classes(self.stage, pool, rois, images.sizes))
        features = pool(found.boxes, 14)
        outputs = mask_cascade(self.mask_heads, features)
        found = found._replace(masks=stage_masks(outputs, found.labels))
        return mq.rescored(found, self.quality.of(features, outputs, found.labels), self.rescore)

    def training_losses(self, batch, training=True):
        images, truth = batch
        pyramid = self.encode(images, training)
        pool = from_pyramid(pyramid, self.sampling_ratio)
        maps = self.rpn(pyramid)
        losses = self.rpn_losses(maps, images.sizes, truth, absolute_error, border=None)
        rois = self.propose(maps, images.sizes, training=True)
        sampled, matches = self.sample(rois, truth, self.stage.iou_threshold)
        logits, deltas = self.stage.predict(pool, sampled)
        scale = self.stage.delta_scale
        losses |= box_loss(logits, deltas, sampled, matches, truth, scale, absolute_error)
        sampled, matches = positives(sampled, matches)
        features = pool(sampled.boxes, 14)
        outputs = mask_cascade(self.mask_heads, features)
        targets = mask_targets(sampled, matches, truth, images.sizes)
        logits = outputs[-1].logits
        losses["mask"] = mask_loss(logits, targets, matches)
        quality = self.quality.of(features, outputs, matches.labels)
        target = mq.quality_target(
            logits, targets, sampled, matches, truth, threshold=self.quality_threshold
        )
        losses["quality"] = weighted(mq.quality_loss(quality, target), self.quality_loss_weight)
        return losses
