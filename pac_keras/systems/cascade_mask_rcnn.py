"""Cascade Mask R-CNN. Source: Cai and Vasconcelos 2019, with mmdetection's settings."""

import keras

from pac_keras.cascade import STAGE_LOSSES, box_stages, refine_boxes
from pac_keras.heads.box import box_loss
from pac_keras.heads.context import feature_relays, relayed
from pac_keras.heads.mask import mask_cascade, mask_heads, mask_loss, mask_targets, stage_masks
from pac_keras.losses import weighted
from pac_keras.roi.features import from_pyramid
from pac_keras.roi.sampling import positives
from pac_keras.systems.base_two_stage import RPN_LOSSES, TwoStageSegmenter


@keras.saving.register_keras_serializable("pac_keras")
class CascadeMaskRCNN(TwoStageSegmenter):
    """Three stages refine the boxes; each has a mask branch of its own.

    Args:
        num_classes, backbone, **shared: see `TwoStageSegmenter`.
        interleaved: masks are trained on the boxes that their stage refined (HTC, table 3).
        feature_relay: mask heads also receive what their box head knows (SCNet, table 4).
        test_mask_stage: "ensemble" averages the three masks, 1, 2 or 3 takes one.
    """

    def __init__(
        self,
        num_classes=80,
        backbone="resnet50",
        *,
        interleaved=False,
        feature_relay=False,
        test_mask_stage="ensemble",
        **shared,
    ):
        super().__init__(num_classes, backbone, **shared)
        self.interleaved, self.test_mask_stage = interleaved, test_mask_stage
        self.stages = box_stages(num_classes, self.fc_channels)
        self.mask_heads = mask_heads(3, num_classes, self.channels, information_flow=False)
        self.relays = feature_relays(3, self.channels, feature_relay)
        self.finish(*RPN_LOSSES, *STAGE_LOSSES)

    def call(self, images):
        pyramid = self.encode(images)
        pool = from_pyramid(pyramid, self.sampling_ratio)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        rois, scores = refine_boxes(self.stages, pool, rois, images.sizes)
        found = self.select(rois.boxes, scores)
        features = pool(found.boxes, 14)
        outputs = [self.mask_output(i, features, pool, found.boxes) for i in range(3)]
        return found._replace(masks=stage_masks(outputs, found.labels, self.test_mask_stage))

    def training_losses(self, batch, training=True):
        images, truth = batch
        pyramid = self.encode(images, training)
        pool = from_pyramid(pyramid, self.sampling_ratio)
        maps = self.rpn(pyramid)
        losses = self.rpn_losses(maps, images.sizes, truth)
        rois = self.propose(maps, images.sizes, training=True)
        for i, stage in enumerate(self.stages, start=1):
            sampled, matches = self.sample(rois, truth, stage.iou_threshold, low_quality=False)
            logits, deltas = stage.predict(pool, sampled)
            parts = box_loss(logits, deltas, sampled, matches, truth, stage.delta_scale)
            rois = stage.refine(sampled, deltas, images.sizes)
            if self.interleaved:
                sampled, matches = self.sample(rois, truth, stage.iou_threshold, low_quality=False)
            sampled, matches = positives(sampled, matches)
            output = self.mask_output(i - 1, pool(sampled.boxes, 14), pool, sampled.boxes)
            targets = mask_targets(sampled, matches, truth, images.sizes)
            parts["mask"] = mask_loss(output.logits, targets, matches)
            losses |= {f"stage{i}_{n}": weighted(x, stage.loss_weight) for n, x in parts.items()}
        return losses

    def mask_output(self, stage, features, pool, boxes):
        """The MaskOutput of `stage`, from 0, for `boxes` `[B, R, 4]` and their `features`."""
        features = relayed(features, self.relays[stage], self.stages[stage], pool, boxes)
        return mask_cascade([self.mask_heads[stage]], features)[0]
