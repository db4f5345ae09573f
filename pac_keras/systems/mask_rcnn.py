"""Mask R-CNN. Source: He et al. 2017, on a feature pyramid, with mmdetection's settings."""

import keras

from pac_keras.cascade import box_stage, boxes_of_classes
from pac_keras.heads.box import box_loss, deltas_of, likely_labels
from pac_keras.heads.context import feature_relays, relayed
from pac_keras.heads.mask import mask_cascade, mask_heads, mask_loss, mask_targets, stage_masks
from pac_keras.losses import absolute_error
from pac_keras.roi.features import from_pyramid
from pac_keras.roi.sampling import positives
from pac_keras.systems.base_two_stage import RPN_LOSSES, TwoStageSegmenter


@keras.saving.register_keras_serializable("pac_keras")
class MaskRCNN(TwoStageSegmenter):
    """Classifies, refines and segments each proposal once.

    Args:
        num_classes, backbone, **shared: see `TwoStageSegmenter`.
        interleaved: masks are trained on the refined boxes (HTC, table 3).
        feature_relay: the mask head also receives what the box head knows (SCNet, table 4).
        aligned: see `roi_align`; False for torchvision's weights.
    """

    def __init__(
        self,
        num_classes=80,
        backbone="resnet50",
        *,
        interleaved=False,
        feature_relay=False,
        aligned=True,
        max_proposals=(1000, 1000),
        **shared,
    ):
        super().__init__(num_classes, backbone, max_proposals=max_proposals, **shared)
        self.interleaved, self.aligned = interleaved, aligned
        self.stage = box_stage(num_classes, self.fc_channels)
        self.mask_heads = mask_heads(1, num_classes, self.channels)
        self.relay = feature_relays(1, self.channels, feature_relay)[0]
        self.finish(*RPN_LOSSES, "class", "box", "mask")

    def call(self, images):
        pyramid = self.encode(images)
        pool = from_pyramid(pyramid, self.sampling_ratio, self.aligned)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        found = self.select(*boxes_of_classes(self.stage, pool, rois, images.sizes))
        outputs = self.mask_outputs(pool, found.boxes)
        return found._replace(masks=stage_masks(outputs, found.labels))

    def training_losses(self, batch, training=True):
        images, truth = batch
        pyramid = self.encode(images, training)
        pool = from_pyramid(pyramid, self.sampling_ratio, self.aligned)
        maps = self.rpn(pyramid)
        losses = self.rpn_losses(maps, images.sizes, truth, absolute_error, border=None)
        rois = self.propose(maps, images.sizes, training=True)
        sampled, matches = self.sample(rois, truth, self.stage.iou_threshold)
        logits, deltas = self.stage.predict(pool, sampled)
        scale = self.stage.delta_scale
        losses |= box_loss(logits, deltas, sampled, matches, truth, scale, absolute_error)
        if self.interleaved:
            deltas = deltas_of(deltas, likely_labels(logits, matches))
            rois = self.stage.refine(sampled, deltas, images.sizes)
            sampled, matches = self.sample(rois, truth, self.stage.iou_threshold)
        sampled, matches = positives(sampled, matches)
        outputs = self.mask_outputs(pool, sampled.boxes)
        targets = mask_targets(sampled, matches, truth, images.sizes)
        losses["mask"] = mask_loss(outputs[-1].logits, targets, matches)
        return losses

    def mask_outputs(self, pool, boxes):
        """The mask head's answer for `boxes` `[B, R, 4]`: one MaskOutput."""
        features = relayed(pool(boxes, 14), self.relay, self.stage, pool, boxes)
        return mask_cascade(self.mask_heads, features)
