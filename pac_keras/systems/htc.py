"""Hybrid Task Cascade. Source: Chen et al. 2019, with the settings of its public code."""

import keras

from pac_keras.cascade import STAGE_LOSSES, box_stages, refine_boxes
from pac_keras.heads.box import box_loss
from pac_keras.heads.mask import mask_cascade, mask_heads, mask_loss, mask_targets, stage_masks
from pac_keras.heads.semantic import semantic_head, semantic_loss
from pac_keras.losses import weighted
from pac_keras.roi.features import branch_sources
from pac_keras.roi.sampling import positives
from pac_keras.systems.base_two_stage import RPN_LOSSES, TwoStageSegmenter


@keras.saving.register_keras_serializable("pac_keras")
class HTC(TwoStageSegmenter):
    """Boxes and masks refine each other in three stages, with semantic context.

    Args:
        num_classes, backbone, **shared: see `TwoStageSegmenter`.
        num_semantic_classes: classes of the semantic map; 183 in COCO-stuff.
        semantic: "htc", or "none": no semantic branch (table 2); see also `PAC`.
        semantic_fusion: which branches receive semantic features, of "box" and "mask" (table 5).
        semantic_loss_weight: 0.2 in the public code, 1 in the text; table 6 finds little effect.
        interleaved: masks are trained on the boxes that their stage refined (table 2).
        mask_info_flow: each mask head builds on the previous one's features (table 2).
        test_mask_stage: "ensemble" averages the three masks, 1, 2 or 3 takes one (table 4).
    """

    def __init__(
        self,
        num_classes=80,
        backbone="resnet50",
        *,
        num_semantic_classes=183,
        semantic="htc",
        semantic_fusion=("box", "mask"),
        semantic_loss_weight=0.2,
        interleaved=True,
        mask_info_flow=True,
        test_mask_stage="ensemble",
        score_threshold=0.001,
        **shared,
    ):
        super().__init__(num_classes, backbone, score_threshold=score_threshold, **shared)
        self.semantic_fusion = tuple(semantic_fusion)
        self.semantic_loss_weight = semantic_loss_weight
        self.interleaved, self.mask_info_flow = interleaved, mask_info_flow
        self.test_mask_stage = test_mask_stage

        self.semantic = semantic_head(semantic, num_semantic_classes, self.channels)
        self.stages = box_stages(num_classes, self.fc_channels)
        self.mask_heads = mask_heads(3, num_classes, self.channels, mask_info_flow)
        self.finish(*RPN_LOSSES, *STAGE_LOSSES, self.semantic and "semantic")

    def call(self, images):
        pyramid = self.encode(images)
        (box_pool, mask_pool), _ = self.sources(pyramid)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        rois, scores = refine_boxes(self.stages, box_pool, rois, images.sizes)
        found = self.select(rois.boxes, scores)
        outputs = mask_cascade(self.mask_heads, mask_pool(found.boxes, 14), self.mask_info_flow)
        return found._replace(masks=stage_masks(outputs, found.labels, self.test_mask_stage))

    def training_losses(self, batch, training=True):
        images, truth = batch
        pyramid = self.encode(images, training)
        (box_pool, mask_pool), segmentation = self.sources(pyramid)
        maps = self.rpn(pyramid)
        losses = self.rpn_losses(maps, images.sizes, truth)
        if segmentation is not None:
            loss = semantic_loss(segmentation, truth.semantic)
            losses["semantic"] = weighted(loss, self.semantic_loss_weight)
        rois = self.propose(maps, images.sizes, training=True)
        for i, stage in enumerate(self.stages, start=1):
            sampled, matches = self.sample(rois, truth, stage.iou_threshold)
            logits, deltas = stage.predict(box_pool, sampled)
            parts = box_loss(logits, deltas, sampled, matches, truth, stage.delta_scale)
            rois = stage.refine(sampled, deltas, images.sizes)
            if self.interleaved:  # masks are trained on what this stage made of the boxes
                sampled, matches = self.sample(rois, truth, stage.iou_threshold)
            sampled, matches = positives(sampled, matches)
            features = mask_pool(sampled.boxes, 14)
            outputs = mask_cascade(self.mask_heads[:i], features, self.mask_info_flow)
            targets = mask_targets(sampled, matches, truth, images.sizes)
            parts["mask"] = mask_loss(outputs[-1].logits, targets, matches)
            losses |= {f"stage{i}_{n}": weighted(x, stage.loss_weight) for n, x in parts.items()}
        return losses

    def sources(self, pyramid):
        """Features of the box and of the mask branch, and semantic logits (None without branch)."""
        features, logits = (None, None) if self.semantic is None else self.semantic(pyramid)
        settings = self.semantic_fusion, None, self.sampling_ratio
        return branch_sources(pyramid, features, *settings), logits
