"""Hybrid Task Cascade. Source: Chen et al. 2019, with the settings of its public code."""

import keras

from pac_keras.cascade import DELTA_SCALES, IOU_THRESHOLDS, STAGE_WEIGHTS, BoxStage, refine_boxes
from pac_keras.heads.box import BoxHead, box_loss
from pac_keras.heads.mask import MaskHead, mask_cascade, mask_loss, mask_targets, stage_masks
from pac_keras.heads.semantic import semantic_head, semantic_loss
from pac_keras.losses import weighted
from pac_keras.roi.features import from_pyramid, from_semantic, roi_features
from pac_keras.roi.sampling import positives
from pac_keras.systems.base import check_choice
from pac_keras.systems.two_stage import RPN_LOSSES, TwoStageSegmenter, stage_loss_names


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
        check_choice("test_mask_stage", test_mask_stage, ("ensemble", 1, 2, 3))
        classes, channels = self.num_classes, self.channels
        self.semantic_fusion = tuple(semantic_fusion)
        self.semantic_loss_weight = semantic_loss_weight
        self.interleaved, self.mask_info_flow = interleaved, mask_info_flow
        self.test_mask_stage = test_mask_stage
        self.semantic = semantic_head(semantic, num_semantic_classes, channels)
        self.stages = [
            BoxStage(BoxHead(classes, self.fc_channels), threshold, scale)
            for threshold, scale in zip(IOU_THRESHOLDS, DELTA_SCALES, strict=True)
        ]
        self.mask_heads = [
            MaskHead(classes, channels, takes_carried=mask_info_flow and i > 0) for i in range(3)
        ]
        self.finish(
            [
                *RPN_LOSSES,
                *(["semantic"] if self.semantic is not None else []),
                *stage_loss_names(len(self.stages)),
            ]
        )

    def call(self, images):
        pyramid = self.encode(images)
        box_pool, mask_pool, _ = self.pools(pyramid)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        rois, scores = refine_boxes(self.stages, box_pool, rois, images.sizes)
        found = self.select(rois, scores)
        outputs = mask_cascade(self.mask_heads, mask_pool(found.boxes, 14), self.mask_info_flow)
        return found._replace(masks=stage_masks(outputs, found.labels, self.test_mask_stage))

    def training_losses(self, batch, training=True):
        images, truth = batch
        pyramid = self.encode(images, training)
        box_pool, mask_pool, segmentation = self.pools(pyramid)
        maps = self.rpn(pyramid)
        losses = self.rpn_losses(maps, images.sizes, truth)
        if segmentation is not None:
            loss = semantic_loss(segmentation, truth.semantic)
            losses["semantic"] = weighted(loss, self.semantic_loss_weight)
        rois = self.propose(maps, images.sizes, training=True)
        for i, (stage, weight) in enumerate(zip(self.stages, STAGE_WEIGHTS, strict=True)):
            sampled, matches = self.sample(rois, truth, stage.iou_threshold)
            logits, deltas = stage.predict(box_pool, sampled)
            box_losses = box_loss(logits, deltas, sampled, matches, truth, stage.delta_scale)
            rois = stage.refine(sampled, deltas, images.sizes)
            if self.interleaved:  # masks are trained on what this stage made of the boxes
                sampled, matches = self.sample(rois, truth, stage.iou_threshold)
            sampled, matches = positives(sampled, matches)
            features = mask_pool(sampled.boxes, 14)
            heads = self.mask_heads[: i + 1]
            logits = mask_cascade(heads, features, self.mask_info_flow)[-1].logits
            targets = mask_targets(sampled, matches, truth, images.sizes)
            losses |= {f"stage{i + 1}_{n}": weighted(x, weight) for n, x in box_losses.items()}
            losses[f"stage{i + 1}_mask"] = weighted(mask_loss(logits, targets, matches), weight)
        return losses

    def pools(self, pyramid):
        """Sources of box and of mask features, and semantic logits (None without branch)."""
        plain = from_pyramid(pyramid, self.sampling_ratio)
        if self.semantic is None:
            return plain, plain, None
        features, logits = self.semantic(pyramid)
        fused = roi_features(plain, from_semantic(features, self.sampling_ratio))
        box_pool, mask_pool = (
            fused if branch in self.semantic_fusion else plain for branch in ("box", "mask")
        )
        return box_pool, mask_pool, logits
