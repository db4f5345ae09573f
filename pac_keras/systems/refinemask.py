"""RefineMask: Mask R-CNN whose masks of 112 cells a side are refined at their border.

Source: Zhang et al. 2021, and its public code.
"""

import keras
from keras import ops

from pac_keras.cascade import box_stage, boxes_of_classes
from pac_keras.choices import check_choice
from pac_keras.heads import refine_mask
from pac_keras.heads.box import box_loss
from pac_keras.heads.mask import by_detection
from pac_keras.heads.semantic import ObjectSemanticHead, object_loss
from pac_keras.losses import absolute_error, smooth_l1, weighted
from pac_keras.roi.features import from_pyramid
from pac_keras.roi.sampling import positives
from pac_keras.systems.base_two_stage import RPN_LOSSES, TwoStageSegmenter

_BOX_ERRORS = {"l1": absolute_error, "smooth_l1": smooth_l1}


@keras.saving.register_keras_serializable("pac_keras")
class RefineMask(TwoStageSegmenter):
    """Classifies and refines each proposal once; its mask grows from 14 to 112 cells a side.

    Ground truth wants frames that are finer than the masks: `frame=(224, 224)` of the data.

    Args:
        num_classes, backbone, **shared: see `TwoStageSegmenter`.
        variant: the head: "original", or "simple", the public code's later one.
        num_stages, fusion, class_agnostic_last: see `RefineMaskHead`.
        semantic_head: with the semantic map at stride 4.
        deep_supervision: every scale has a loss, not the last one alone.
        boundary_aware: scales from 56 cells on are trained at the border, and refine just that;
            otherwise each predicts the whole mask, and the last one counts.
        boundary_width: of the border that is trained on, in cells.
        box_loss_weight: of the box head's two losses.
        box_error: "l1", or "smooth_l1" (Cityscapes).
    """

    def __init__(
        self,
        num_classes=80,
        backbone="resnet50",
        *,
        variant="original",
        num_stages=3,
        fusion="sfm",
        class_agnostic_last=False,
        semantic_head=True,
        deep_supervision=True,
        boundary_aware=True,
        boundary_width=2,
        box_loss_weight=2.0,
        box_error="l1",
        max_proposals=(1000, 1000),
        **shared,
    ):
        super().__init__(num_classes, backbone, max_proposals=max_proposals, **shared)
        check_choice("variant", variant, ("original", "simple"))
        check_choice("box_error", box_error, tuple(_BOX_ERRORS))
        check_choice("boundary_width", boundary_width, (1, 2, 3))
        if boundary_aware and not deep_supervision:
            raise ValueError(
                "Without `deep_supervision` there is no coarser mask whose border could be "
                "refined: set boundary_aware=False, too."
            )
        self.boundary_aware, self.boundary_width = boundary_aware, boundary_width
        self.box_loss_weight, self.box_error = box_loss_weight, _BOX_ERRORS[box_error]
        self.stage = box_stage(num_classes, self.fc_channels)
        simple = variant == "simple"
        self.semantic = ObjectSemanticHead(self.channels, not simple) if semantic_head else None
        settings = self.channels, num_stages, fusion, semantic_head, simple, class_agnostic_last
        self.mask_head = refine_mask.RefineMaskHead(num_classes, *settings)
        weights = refine_mask.LOSS_WEIGHTS[variant][: num_stages + 1]
        self.scale_weights = weights if deep_supervision else (0.0,) * num_stages + weights[-1:]
        self.mask_losses = [
            f"mask{refine_mask.FIRST_SIDE * 2**scale}" for scale in range(num_stages + 1)
        ]
        semantic_loss = semantic_head and not simple and "semantic"
        self.finish(*RPN_LOSSES, "class", "box", *self.mask_losses, semantic_loss)

    def call(self, images):
        pyramid = self.encode(images)
        pool = from_pyramid(pyramid, self.sampling_ratio)
        rois = self.propose(self.rpn(pyramid), images.sizes)
        found = self.select(*boxes_of_classes(self.stage, pool, rois, images.sizes))
        semantic = self.semantic and self.semantic(pyramid[2])
        settings = found.boxes, found.labels, self.sampling_ratio
        scales = self.mask_head.predict(pool, semantic, *settings)
        logits = refine_mask.merge_scales(scales) if self.boundary_aware else scales[-1]
        return found._replace(masks=by_detection(ops.sigmoid(logits), found.labels))

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
        parts = box_loss(logits, deltas, sampled, matches, truth, scale, self.box_error)
        losses |= {name: weighted(x, self.box_loss_weight) for name, x in parts.items()}
        sampled, matches = positives(sampled, matches)
        semantic = self.semantic and self.semantic(pyramid[2])
        settings = sampled.boxes, matches.labels, self.sampling_ratio
        scales = self.mask_head.predict(pool, semantic, *settings)
        targets = refine_mask.scale_targets(scales, sampled, matches, truth, images.sizes)
        width = self.boundary_width if self.boundary_aware else None
        parts = refine_mask.scale_losses(scales, targets, matches, width)
        for name, part, weight in zip(self.mask_losses, parts, self.scale_weights, strict=True):
            losses[name] = weighted(part, weight)
        if semantic and semantic[1] is not None:
            losses["semantic"] = object_loss(semantic[1], truth, images.sizes)
        return losses
