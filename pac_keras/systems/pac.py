"""Partial atrous cascade R-CNN: HTC with a PASPE semantic branch and predicted mask quality.

No public code exists; where the paper is silent, each choice is in the docstrings of the parts.
"""

import keras

from pac_keras.cascade import DELTA_SCALES, IOU_THRESHOLDS, STAGE_WEIGHTS, BoxStage, refine_boxes
from pac_keras.heads.box import BoxHead, box_loss
from pac_keras.heads.mask import (
    MaskHead,
    mask_cascade,
    mask_loss,
    mask_targets,
    of_class,
    stage_masks,
)
from pac_keras.heads.quality import (
    MaskQualityHead,
    class_quality,
    quality_loss,
    quality_target,
    rescored,
)
from pac_keras.heads.semantic import semantic_head, semantic_loss
from pac_keras.losses import weighted
from pac_keras.roi.features import from_pyramid, from_semantic, roi_features
from pac_keras.roi.sampling import positives
from pac_keras.systems.base import check_choice
from pac_keras.systems.two_stage import RPN_LOSSES, TwoStageSegmenter, stage_loss_names


@keras.saving.register_keras_serializable("pac_keras")
class PAC(TwoStageSegmenter):
    """Boxes and masks refine each other in three stages; a semantic branch sees far, and the
    score of a mask says how good the mask is.

    Args:
        num_classes, backbone, **shared: see `TwoStageSegmenter`.
        num_semantic_classes: classes of the semantic map; 183 in COCO-stuff.
        semantic: "paspe", "aspp", "htc" (table 3), or "none".
        semantic_fusion: which branches receive semantic features, of "box" and "mask".
        semantic_loss_weight: 1 in the paper.
        roi_fusion: "sum" or "concat" of pyramid and semantic features.
        decoder_convs: 3x3 convolutions between the stacked maps and the outputs.
        mask_quality: predicts the IoU of each mask and multiplies the score by it (table 1).
        quality_convs: 4, or 2 for "architecture simplification" (table 3).
        quality_info_flow: the quality module also sees the second mask head's features (table 3).
        rescore: "both" ranks boxes and masks by the product, "segm" masks alone.
        interleaved, mask_info_flow, test_mask_stage: see `HTC`.
    """

    def __init__(
        self,
        num_classes=80,
        backbone="resnet50",
        *,
        num_semantic_classes=183,
        semantic="paspe",
        semantic_fusion=("box", "mask"),
        semantic_loss_weight=1.0,
        roi_fusion="sum",
        decoder_convs=2,
        mask_quality=True,
        quality_convs=4,
        quality_info_flow=False,
        rescore="both",
        interleaved=True,
        mask_info_flow=True,
        test_mask_stage="ensemble",
        score_threshold=0.001,
        **shared,
    ):
        super().__init__(num_classes, backbone, score_threshold=score_threshold, **shared)
        check_choice("rescore", rescore, ("both", "segm"))
        check_choice("roi_fusion", roi_fusion, ("sum", "concat"))
        check_choice("test_mask_stage", test_mask_stage, ("ensemble", 1, 2, 3))
        classes, channels = self.num_classes, self.channels
        self.semantic_fusion, self.roi_fusion = tuple(semantic_fusion), roi_fusion
        self.semantic_loss_weight = semantic_loss_weight
        self.interleaved, self.mask_info_flow = interleaved, mask_info_flow
        self.test_mask_stage, self.rescore = test_mask_stage, rescore
        self.semantic = semantic_head(semantic, num_semantic_classes, channels, decoder_convs)
        self.stages = [
            BoxStage(BoxHead(classes, self.fc_channels), threshold, scale)
            for threshold, scale in zip(IOU_THRESHOLDS, DELTA_SCALES, strict=True)
        ]
        self.mask_heads = [
            MaskHead(classes, channels, takes_carried=mask_info_flow and i > 0) for i in range(3)
        ]
        self.quality = (
            MaskQualityHead(classes, channels, self.fc_channels, quality_convs, quality_info_flow)
            if mask_quality
            else None
        )
        self.finish(
            [
                *RPN_LOSSES,
                *(["semantic"] if self.semantic is not None else []),
                *stage_loss_names(len(self.stages)),
                *(["quality"] if self.quality is not None else []),
            ]
        )

    def call(self, images):
        pyramid = self.encode(images)
        box_pool, mask_pool, _ = self.pools(pyramid)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        rois, scores = refine_boxes(self.stages, box_pool, rois, images.sizes)
        found = self.select(rois, scores)
        features = mask_pool(found.boxes, 14)
        outputs = mask_cascade(self.mask_heads, features, self.mask_info_flow)
        found = found._replace(masks=stage_masks(outputs, found.labels, self.test_mask_stage))
        if self.quality is None:
            return found
        quality = self.mask_quality(features, outputs, found.labels)
        return rescored(found, class_quality(quality, found.labels), self.rescore)

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
            outputs = mask_cascade(self.mask_heads[: i + 1], features, self.mask_info_flow)
            logits = outputs[-1].logits
            targets = mask_targets(sampled, matches, truth, images.sizes)
            losses |= {f"stage{i + 1}_{n}": weighted(x, weight) for n, x in box_losses.items()}
            losses[f"stage{i + 1}_mask"] = weighted(mask_loss(logits, targets, matches), weight)
        if self.quality is not None:
            quality = self.mask_quality(features, outputs, matches.labels)
            predicted = of_class(logits, matches.labels)
            target = quality_target(predicted, targets, sampled, matches, truth)
            losses["quality"] = quality_loss(quality, target, matches)
        return losses

    def mask_quality(self, features, outputs, labels):
        """Predicted IoU `[N, K]` of the last stage's masks, see `MaskQualityHead`."""
        return self.quality(features, of_class(outputs[-1].logits, labels), outputs[1].hidden)

    def pools(self, pyramid):
        """Sources of box and of mask features, and semantic logits (None without branch)."""
        plain = from_pyramid(pyramid, self.sampling_ratio)
        if self.semantic is None:
            return plain, plain, None
        features, logits = self.semantic(pyramid)
        fused = roi_features(
            plain, from_semantic(features, self.sampling_ratio), fusion=self.roi_fusion
        )
        box_pool, mask_pool = (
            fused if branch in self.semantic_fusion else plain for branch in ("box", "mask")
        )
        return box_pool, mask_pool, logits
