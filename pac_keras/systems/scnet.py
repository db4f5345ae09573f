"""SCNet: training and inference see the same boxes. Source: Vu et al. 2021, and its public code."""

import keras

from pac_keras.cascade import BOX_LOSSES, box_stages, refine_boxes
from pac_keras.choices import check_choice
from pac_keras.heads.box import box_loss
from pac_keras.heads.context import GlobalContextHead, context_loss, feature_relays, relayed
from pac_keras.heads.mask import MaskHead, mask_cascade, mask_loss, mask_targets, stage_masks
from pac_keras.heads.semantic import FusedSemanticHead, semantic_loss
from pac_keras.losses import weighted
from pac_keras.roi.features import from_context, from_pyramid, from_semantic, fuse
from pac_keras.roi.sampling import positives
from pac_keras.systems.base_two_stage import RPN_LOSSES, TwoStageSegmenter

# Mask branches of each kind of consistency: (loss, box stage whose regions train it, its weight).
_BRANCHES = {
    "effective": (("mask", 3, 1.75),),
    "naive": (("stage1_mask", 3, 1.0), ("stage2_mask", 3, 0.5), ("stage3_mask", 3, 0.25)),
    "none": (("stage1_mask", 1, 1.0), ("stage2_mask", 2, 0.5), ("stage3_mask", 3, 0.25)),
}


@keras.saving.register_keras_serializable("pac_keras")
class SCNet(TwoStageSegmenter):
    """A box cascade, then one deep mask branch that also hears what the last box stage knows.

    Args:
        num_classes, backbone, num_semantic_classes, semantic_loss_weight, **shared: see `HTC`.
        sample_consistency: "effective": one mask branch of 12 convolutions behind the last stage;
            "naive": three of 4, all on the last stage's boxes; "none": each on its own (table 3).
        feature_relay: mask branches also receive what the box head knows (table 2).
        global_context: both branches also receive a vector of the whole picture (table 2).
        global_context_weight: of the loss of its classes; 0 leaves it unsupervised (table 5).
        mask_rois: masks train on what enters the last stage, "b2" (the code), or leaves it, "b3".
        residual_blocks: a shortcut around every two convolutions of the deep branches.
    """

    def __init__(
        self,
        num_classes=80,
        backbone="resnet50",
        *,
        num_semantic_classes=183,
        semantic_loss_weight=0.2,
        sample_consistency="effective",
        feature_relay=True,
        global_context=True,
        global_context_weight=3.0,
        mask_rois="b2",
        residual_blocks=True,
        score_threshold=0.001,
        **shared,
    ):
        super().__init__(num_classes, backbone, score_threshold=score_threshold, **shared)
        check_choice("sample_consistency", sample_consistency, tuple(_BRANCHES))
        check_choice("mask_rois", mask_rois, ("b2", "b3"))
        self.semantic_weight, self.context_weight = semantic_loss_weight, global_context_weight
        self.branches, self.mask_rois = _BRANCHES[sample_consistency], mask_rois
        settings = self.channels, residual_blocks
        self.semantic = FusedSemanticHead(num_semantic_classes, *settings)
        self.context = GlobalContextHead(num_classes, *settings) if global_context else None
        self.stages = box_stages(num_classes, self.fc_channels)
        deep = {"num_convs": 12, "residual": residual_blocks} if len(self.branches) == 1 else {}
        self.mask_heads = [MaskHead(num_classes, self.channels, **deep) for _ in self.branches]
        self.relays = feature_relays(len(self.branches), self.channels, feature_relay)
        masks = (name for name, _, _ in self.branches)
        self.finish(*RPN_LOSSES, *BOX_LOSSES, *masks, "semantic", self.context and "context")

    def call(self, images):
        pyramid = self.encode(images)
        pool, *_ = self.sources(pyramid)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        rois, scores = refine_boxes(self.stages, pool, rois, images.sizes)
        found = self.select(rois.boxes, scores)
        outputs = [self.mask_output(i, pool, found.boxes) for i in range(len(self.branches))]
        return found._replace(masks=stage_masks(outputs, found.labels))

    def training_losses(self, batch, training=True):
        images, truth = batch
        pyramid = self.encode(images, training)
        pool, semantic, classes = self.sources(pyramid)
        maps = self.rpn(pyramid)
        losses = self.rpn_losses(maps, images.sizes, truth)
        losses["semantic"] = weighted(semantic_loss(semantic, truth.semantic), self.semantic_weight)
        if classes is not None:
            losses["context"] = weighted(context_loss(classes, truth.labels), self.context_weight)
        rois, samples = self.propose(maps, images.sizes, training=True), []
        for i, stage in enumerate(self.stages, start=1):
            sampled, matches = self.sample(rois, truth, stage.iou_threshold)
            logits, deltas = stage.predict(pool, sampled)
            parts = box_loss(logits, deltas, sampled, matches, truth, stage.delta_scale)
            losses |= {f"stage{i}_{n}": weighted(x, stage.loss_weight) for n, x in parts.items()}
            rois = stage.refine(sampled, deltas, images.sizes)
            samples.append(positives(sampled, matches))
        if self.mask_rois == "b3":
            samples[-1] = positives(*self.sample(rois, truth, self.stages[-1].iou_threshold))
        for i, (name, stage, weight) in enumerate(self.branches):
            sampled, matches = samples[stage - 1]
            output = self.mask_output(i, pool, sampled.boxes)
            targets = mask_targets(sampled, matches, truth, images.sizes)
            losses[name] = weighted(mask_loss(output.logits, targets, matches), weight)
        return losses

    def sources(self, pyramid):
        """Features of both branches, semantic logits, and class logits (None without context)."""
        features, segmentation = self.semantic(pyramid)
        ratio = self.sampling_ratio
        parts = from_pyramid(pyramid, ratio), from_semantic(features, ratio)
        if self.context is None:
            return fuse(*parts), segmentation, None
        context, classes = self.context(pyramid[6])
        return fuse(*parts, from_context(context)), segmentation, classes

    def mask_output(self, branch, pool, boxes):
        """The MaskOutput of mask branch number `branch` for `boxes` `[B, R, 4]`."""
        stage = self.stages[self.branches[branch][1] - 1]
        features = relayed(pool(boxes, 14), self.relays[branch], stage, pool, boxes)
        return mask_cascade([self.mask_heads[branch]], features)[0]
