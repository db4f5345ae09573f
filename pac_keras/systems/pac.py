"""Partial atrous cascade R-CNN: HTC with a PASPE semantic branch and predicted mask quality."""

import keras

from pac_keras.cascade import STAGE_LOSSES, box_stages, refine_boxes
from pac_keras.choices import check_choice
from pac_keras.heads import quality as mq
from pac_keras.heads.box import box_loss
from pac_keras.heads.mask import mask_cascade, mask_heads, mask_loss, mask_targets, stage_masks
from pac_keras.heads.semantic import semantic_head, semantic_loss
from pac_keras.layers import conv_relu
from pac_keras.losses import weighted
from pac_keras.roi.features import branch_sources
from pac_keras.roi.sampling import positives
from pac_keras.systems.base_two_stage import RPN_LOSSES, TwoStageSegmenter


@keras.saving.register_keras_serializable("pac_keras")
class PAC(TwoStageSegmenter):
    """HTC's cascade with far-seeing semantic context and a score that knows its mask's quality.

    Args:
        num_classes, backbone, **shared: see `TwoStageSegmenter`.
        num_semantic_classes: classes of the semantic map; 183 in COCO-stuff.
        semantic: "paspe", "aspp", "htc" (table 3), or "none".
        semantic_fusion, interleaved, mask_info_flow, test_mask_stage, semantic_loss_weight (1 in
            the paper): see `HTC`.
        roi_fusion: "sum" of pyramid and semantic features, or "concat" and a 1x1 convolution.
        decoder_convs: 3x3 convolutions of the semantic branch at stride 8.
        mask_quality: the score is multiplied by the predicted IoU of the mask (table 1).
        quality_convs: 4, or 2 for "architecture simplification" (table 3).
        quality_info_flow: mask quality also sees the second mask head's features (table 3).
        rescore: "both" ranks boxes and masks by the product, "segm" masks alone.
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
        check_choice("roi_fusion", roi_fusion, ("sum", "concat"))
        self.semantic_fusion = tuple(semantic_fusion)
        self.semantic_loss_weight = semantic_loss_weight
        self.interleaved, self.mask_info_flow = interleaved, mask_info_flow
        self.test_mask_stage, self.rescore = test_mask_stage, rescore

        self.semantic = semantic_head(semantic, num_semantic_classes, self.channels, decoder_convs)
        self.reduce = conv_relu(self.channels, 1) if roi_fusion == "concat" else None
        self.stages = box_stages(num_classes, self.fc_channels)
        self.mask_heads = mask_heads(3, num_classes, self.channels, mask_info_flow)
        settings = self.channels, self.fc_channels, quality_convs, quality_info_flow
        self.quality = mq.MaskQualityHead(num_classes, *settings) if mask_quality else None
        branches = self.semantic and "semantic", self.quality and "quality"
        self.finish(*RPN_LOSSES, *STAGE_LOSSES, *branches)

    def call(self, images):
        pyramid = self.encode(images)
        (box_pool, mask_pool), _ = self.sources(pyramid)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        rois, scores = refine_boxes(self.stages, box_pool, rois, images.sizes)
        found = self.select(rois.boxes, scores)
        features = mask_pool(found.boxes, 14)
        outputs = mask_cascade(self.mask_heads, features, self.mask_info_flow)
        found = found._replace(masks=stage_masks(outputs, found.labels, self.test_mask_stage))
        if self.quality is None:
            return found
        return mq.rescored(found, self.quality.of(features, outputs, found.labels), self.rescore)

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
        if self.quality is not None:
            predicted = self.quality.of(features, outputs, matches.labels)
            target = mq.quality_target(outputs[-1].logits, targets, sampled, matches, truth)
            losses["quality"] = mq.quality_loss(predicted, target)
        return losses

    def sources(self, pyramid):
        """Features of the box and of the mask branch, and semantic logits (None without branch)."""
        features, logits = (None, None) if self.semantic is None else self.semantic(pyramid)
        settings = self.semantic_fusion, self.reduce, self.sampling_ratio
        return branch_sources(pyramid, features, *settings), logits
