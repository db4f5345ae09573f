"""RefineMask's head: masks refined from 14 to 112 cells a side, with a fine semantic map's aid.

Each stage predicts a mask, looks at its features, the semantic map and that mask together, and
hands twice as many cells a side to the next. `merge_scales` puts the masks of all scales together.

Source: Zhang et al. 2021 (RefineMask), and the heads of its public code: the original one, and
the later one, here `simple`, without semantic supervision.
"""

from keras import layers, ops

from pac_keras.choices import check_choice
from pac_keras.heads.mask import ClassLogits, mask_targets
from pac_keras.layers import conv_relu, conv_stack, resize_bilinear
from pac_keras.losses import binary_cross_entropy
from pac_keras.masks import boundary
from pac_keras.roi.features import from_map, points_of_map

FIRST_SIDE = 14  # cells a side of the first stage
_STRIDE = 4  # of the semantic map
LOSS_WEIGHTS = {  # of each scale, by variant; the fifth is ours
    "original": (0.25, 0.5, 0.75, 1.0, 1.0),
    "simple": (0.5, 0.75, 0.75, 1.0, 1.0),
}
_DILATIONS = {"sfm": (1, 3, 5), "parallel": (1, 1, 1)}


class RefineMaskHead(layers.Layer):
    """Mask logits of each region's class at all scales: 14, 28, .. 14 * 2^num_stages cells a side.

    `call(features [N, 14, 14, C], labels [B, R], regions)` -> list of float32 `[N, s, s]`; N = B *
    R; `regions` are what `RefineStage.regions` answers for each stage. Boxes never enter `call`,
    since Keras would cast them to half precision under a mixed policy: `predict` takes them.

    Args:
        num_classes: K.
        channels: of P2 and of the first stage; each stage halves them.
        num_stages: refinements.
        fusion: after the 1x1 convolution that joins a stage's inputs, "sfm": three 3x3 convolutions
            at dilations 1, 3, 5, summed; "parallel": the same undilated; "conv3x3": one of them;
            "conv1x1": none (table 5).
        semantic: with a semantic map.
        simple: the later head: no semantic supervision, one sample per cell of the map, the mean of
            the region as a fourth branch, class-agnostic logits of the last scale at half its side.
        class_agnostic_last: one mask for all classes at the last scale (for LVIS).
    """

    def __init__(
        self,
        num_classes,
        channels=256,
        num_stages=3,
        fusion="sfm",
        semantic=True,
        simple=False,
        class_agnostic_last=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("fusion", fusion, (*_DILATIONS, "conv3x3", "conv1x1"))
        check_choice("num_stages", num_stages, (1, 2, 3, 4))
        widths = [channels // 2**i for i in range(num_stages)]
        if channels % 2**num_stages or widths[-1] < 6:
            raise ValueError(
                f"`channels` must be a multiple of {2**num_stages}, with at least 6 in the last "
                f"of num_stages={num_stages}. Received: {channels}"
            )
        self.simple = simple
        self.convs = conv_stack(channels, 2)
        self.stages = [
            RefineStage(num_classes, width, fusion, semantic, simple, i + 1 == num_stages)
            for i, width in enumerate(widths)
        ]
        self.logits = ClassLogits(1 if simple or class_agnostic_last else num_classes)

    def call(self, features, labels, regions):
        x, scales = features, []
        for conv in self.convs:
            x = conv(x)
        for stage, inside in zip(self.stages, regions, strict=True):
            logits, x = stage(x, labels, inside)
            scales.append(logits)
        last = self.logits(x, labels)
        return [*scales, enlarge(last) if self.simple else last]

    def predict(self, pool, semantic, boxes, labels, sampling_ratio):
        """The logits of `call` for `boxes` `[B, R, 4]` of `labels` `[B, R]`.

        Args:
            pool: source of features, see `roi/features.py`.
            semantic: what `ObjectSemanticHead` answers for P2, or None.
            sampling_ratio: of the original head's RoIAlign, see `roi_align`.
        """

        def cut(features, side):
            if self.simple:
                return points_of_map(features, _STRIDE)(boxes, side)
            return from_map(features, _STRIDE, sampling_ratio)(boxes, side)

        regions = [
            stage.regions(semantic, cut, FIRST_SIDE * 2**i) for i, stage in enumerate(self.stages)
        ]
        return self(pool(boxes, FIRST_SIDE), labels, regions)


class RefineStage(layers.Layer):
    """Predicts a mask, and joins it with features and semantic map into finer features.

    `call(features [N, s, s, channels], labels [B, R], regions) -> (logits [N, s, s], features
    [N, 2 s, 2 s, channels / 2])`; the simple head's last stage keeps the side s.
    """

    def __init__(self, num_classes, channels, fusion, semantic, simple, last, **kwargs):
        super().__init__(**kwargs)
        guided = semantic and not simple  # by the semantic mask, too
        self.simple, self.keeps_side = simple, simple and last
        self.logits = ClassLogits(num_classes)
        self.map_conv = conv_relu(channels, 1) if semantic else None
        self.region_conv = conv_relu(channels, 1) if guided else None
        self.join = conv_relu(channels, 1)
        self.fusion = _fusion(fusion, channels, with_mean=simple)
        self.shrink = conv_relu(channels // 2 - (2 if guided else 1), 1)

    def regions(self, semantic, cut, side):
        """The semantic map inside each region: features, and probability if there is one; or ().

        `semantic` is what `ObjectSemanticHead` answers, `cut(map, side) -> [N, side, side, c]`.
        """
        if semantic is None:
            return ()
        features, logits = semantic
        inside = cut(self.map_conv(features), side)
        return (inside,) if logits is None else (inside, cut(ops.sigmoid(logits), side))

    def call(self, features, labels, regions):
        logits = self.logits(features, labels)
        inputs, guides = [features], [ops.sigmoid(logits)[..., None], *regions[1:]]
        for inside in regions[:1]:
            inputs.append(inside if self.region_conv is None else self.region_conv(inside))
        guides = [ops.cast(guide, features.dtype) for guide in guides]
        x = self.join(ops.concatenate([*inputs, *guides], axis=-1))
        for layer in self.fusion:
            x = layer(x)
        x = self.shrink(x)
        if self.keeps_side:
            return logits, ops.concatenate([x, *guides], axis=-1)
        sides = (2 * features.shape[1],) * 2
        larger = [resize_bilinear(guide, sides, align_corners=not self.simple) for guide in guides]
        return logits, ops.concatenate([resize_bilinear(x, sides), *larger], axis=-1)


class MultiBranchFusion(layers.Layer):
    """3x3 convolutions at several dilations, summed (with the region's mean), and a 1x1 one.

    `call([N, s, s, channels])` keeps the shape; rectified.
    """

    def __init__(self, channels, dilations, with_mean, **kwargs):
        super().__init__(**kwargs)
        self.branches = [conv_relu(channels, dilation_rate=rate) for rate in dilations]
        self.merge = conv_relu(channels, 1)
        self.with_mean = with_mean

    def call(self, x):
        total = sum(conv(x) for conv in self.branches)
        if self.with_mean:
            total = total + ops.mean(x, axis=(1, 2), keepdims=True)
        return self.merge(total)


def _fusion(kind, channels, with_mean):
    if kind in _DILATIONS:
        return [MultiBranchFusion(channels, _DILATIONS[kind], with_mean)]
    return [conv_relu(channels)] if kind == "conv3x3" else []


def enlarge(maps):
    """`[N, s, s]` at twice the side, bilinear, corners in place."""
    side = 2 * maps.shape[-1]
    return resize_bilinear(maps[..., None], (side, side), align_corners=True)[..., 0]


def merge_scales(scales):
    """The mask logits of all scales as one of the finest, float32 `[N, s, s]`.

    From 28 cells on, a finer mask counts at the border (width 1) of what is there; elsewhere the
    coarser one stays. `scales` is what `RefineMaskHead` answers; its first, 14 cells, is left out.
    """
    merged = scales[1]
    for finer in scales[2:]:
        border = enlarge(boundary(_binary(merged), 1)) >= 0.5
        merged = ops.where(border, finer, enlarge(merged))
    return merged


def _binary(logits):
    return ops.cast(logits >= 0.0, "float32")


def scale_losses(scales, targets, matches, boundary_width=None):
    """Binary cross entropy at each scale as a list of (sum, count); count is pixels.

    With `boundary_width`, scales from 56 cells on count only around the border of the coarser
    target and of the coarser prediction, as merged so far.

    Args:
        scales: see `merge_scales`; N = B * R.
        targets: `[B, R, s, s]` for each scale, 0 or 1.
        matches: Matches `[B, R]`; only positive rows count.
    """
    positive = ops.reshape(matches.positive, (-1, 1, 1))
    targets = [ops.reshape(target, (-1, *target.shape[2:])) for target in targets]
    losses = []
    for i, (logits, target) in enumerate(zip(scales, targets, strict=True)):
        counted = positive * ops.ones_like(target)
        if boundary_width is not None and i >= 2:
            before = _binary(ops.stop_gradient(merge_scales(scales[:i])))
            border = ops.maximum(
                boundary(before, boundary_width), boundary(targets[i - 1], boundary_width)
            )
            counted = positive * ops.cast(enlarge(border) >= 0.5, "float32")
        losses.append((ops.sum(counted * binary_cross_entropy(logits, target)), ops.sum(counted)))
    return losses


def scale_targets(scales, rois, matches, ground_truth, sizes):
    """What the head should answer at each scale: list of float32 `[B, R, s, s]`, 0 or 1."""
    return [mask_targets(rois, matches, ground_truth, sizes, logits.shape[-1]) for logits in scales]
