"""What RDSNet's two detectors share: anchors, candidates, masks by correlation, refined boxes."""

import keras
from keras import ops

from pac_keras.boxes import decode_deltas, not_empty
from pac_keras.choices import check_choice
from pac_keras.conventions import EDGES, PLUS_ONE
from pac_keras.heads import mbrm, pixel
from pac_keras.heads.dense import flatten_levels
from pac_keras.losses import weighted
from pac_keras.proposals.anchors import ASPECT_RATIOS
from pac_keras.proposals.rpn import top_anchors
from pac_keras.roi.sampling import match
from pac_keras.structures import PADDING, Detections
from pac_keras.systems.base import InstanceSegmenter

_REFINED_IOU = 0.5  # with an object, from which a detection's edges are trained on


class OneStageSegmenter(InstanceSegmenter):
    """Base of the systems that answer for all anchors at once and correlate vectors to masks.

    A subclass sets `pyramid`, `head`, `pixels` and the class attributes.

    Args:
        num_classes, backbone, base_channels, frozen_stages, norm, sampling: see
            `InstanceSegmenter`.
        channels: width of pyramid and heads.
        rep_channels: C, length of a pixel's vector.
        rep_background: an object has a vector for its background, too.
        combine: "correlation", or "linear": YOLACT's masks: tanh of the object's vector, ReLU of
            the pixels', no vector for the background.
        train_expand, test_expand: a mask is trained, and cut out, within the box of the object, or
            of the detection, enlarged by this factor; None: trained on the whole picture.
        ohem: train on as many background pixels as an object has, the hardest.
        mask_loss_weight: of the masks' loss.
        mask_samples: objects per picture whose masks are trained.
        mask_side: cells per side of a detection's mask: 112 do for pictures of up to 400 px
            (docs/results.md).
        mask_threshold: probability from which a pixel belongs to a mask.
        box_refinement: "bayes": `MBRM`; "direct": the box around the mask; "none".
        prior_width: gamma of `MBRM`.
        trained_part: "all" but `MBRM`, or "box_refinement": `MBRM` alone, everything else frozen.
        pre_nms: anchors per level that enter the detections.
        score_threshold: class scores must exceed it.
        nms_threshold: IoU from which the worse of two detections of a class is dropped.
        max_detections: D, per picture.
        legacy: boxes and anchors as in mmdetection 1.x, see `conventions`.
    """

    anchor_scales = ()  # sides of a cell's square anchors in strides
    delta_scale = (1.0, 1.0, 1.0, 1.0)

    def __init__(
        self,
        num_classes,
        backbone,
        *,
        base_channels=64,
        frozen_stages=1,
        norm="frozen",
        channels=256,
        rep_channels=32,
        rep_background=True,
        combine="correlation",
        train_expand=1.5,
        test_expand=1.2,
        ohem=True,
        mask_loss_weight=1.0,
        mask_samples=100,
        mask_side=224,
        mask_threshold=0.4,
        box_refinement="bayes",
        prior_width=0.05,
        trained_part="all",
        pre_nms=1000,
        score_threshold=0.05,
        nms_threshold=0.5,
        max_detections=100,
        legacy=False,
        sampling="random",
        **kwargs,
    ):
        shared = base_channels, frozen_stages, norm, sampling
        super().__init__(num_classes, backbone, *shared, **kwargs)
        check_choice("combine", combine, ("correlation", "linear"))
        check_choice("box_refinement", box_refinement, ("bayes", "direct", "none"))
        check_choice("trained_part", trained_part, ("all", "box_refinement"))
        if trained_part == "box_refinement" and box_refinement != "bayes":
            raise ValueError(
                'trained_part="box_refinement" needs box_refinement="bayes". '
                f"Received: {box_refinement!r}"
            )
        self.num_anchors = len(ASPECT_RATIOS) * len(self.anchor_scales)
        self.linear = combine == "linear"
        self.vector_size = rep_channels * (1 if self.linear or not rep_background else 2)
        self.train_expand, self.test_expand, self.ohem = train_expand, test_expand, ohem
        self.mask_loss_weight = mask_loss_weight
        self.mask_samples, self.mask_side = mask_samples, mask_side
        self.mask_threshold = mask_threshold
        self.pre_nms, self.max_detections = pre_nms, max_detections
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.convention = PLUS_ONE if legacy else EDGES
        self.box_refinement = box_refinement
        self.refinement = mbrm.MBRM(prior_width) if box_refinement == "bayes" else None
        self.trained_part = trained_part
        self.random = keras.random.SeedGenerator()

    def start(self, *loss_names):
        """Ends a subclass's `__init__`: creates all variables, and freezes what is not trained."""
        alone = self.trained_part == "box_refinement"
        self.finish(*(("edges",) if alone else loss_names))
        if alone:
            for layer in self.layers:
                layer.trainable = layer is self.refinement
        elif self.refinement is not None:
            self.refinement.trainable = False

    def flatten(self, maps):
        """Anchors, logits, deltas, vectors of the head's maps by level, see `flatten_levels`."""
        anchors, logits, deltas, vectors = flatten_levels(maps, self.cell_anchors)
        return anchors, logits, deltas, [ops.tanh(x) for x in vectors] if self.linear else vectors

    def flatten_all(self, maps):
        """The same of all levels together: `[N, 4]`, `[B, N, k]`, `[B, N, 4]`, `[B, N, V]`."""
        return [ops.concatenate(levels, axis=-2) for levels in self.flatten(maps)]

    def cell_anchors(self, stride):
        """float32 NumPy `[A, 4]`, around the middle of a cell."""
        return self.convention.base_anchors(stride, self.anchor_scales)

    def candidates(self, maps, sizes, class_scores):
        """The best anchors of each level: boxes `[B, M, 4]`, scores `[B, M, K]`, vectors.

        Args:
            maps: what the head answers.
            sizes: `[B, 2]`, (height, width) of the pictures.
            class_scores: function of logits -> probabilities of the K classes.
        """
        levels = []
        for anchors, logits, deltas, vectors in zip(*self.flatten(maps), strict=True):
            scores = class_scores(logits)
            best, rows = top_anchors(ops.max(scores, axis=-1), self.pre_nms)
            fields = (ops.take_along_axis(x, rows[..., None], axis=1) for x in (scores, vectors))
            scores, vectors = fields
            deltas = ops.take_along_axis(deltas, rows[..., None], axis=1)
            boxes = decode_deltas(deltas, ops.take(anchors, rows, axis=0), self.delta_scale)
            boxes = self.convention.clip(boxes, sizes)
            usable = (best >= 0.0) & not_empty(boxes)
            levels.append((boxes, ops.where(usable[..., None], scores, 0.0), vectors))
        return tuple(ops.concatenate(field, axis=1) for field in zip(*levels, strict=True))

    def with_masks(self, chosen, boxes, vectors, pixels, sizes):
        """Detections of chosen candidates with their masks, and the masks' logits `[B, D, h, w]`.

        Args:
            chosen: what `select` answers: rows, labels, scores and validity.
            boxes, vectors: of all candidates.
            pixels: vectors of the pixels, float `[B, H/4, W/4, C]`.
            sizes: `[B, 2]`, (height, width) of the pictures.
        """
        rows, labels, scores, valid = chosen
        boxes = ops.take_along_axis(boxes, rows[..., None], axis=1) * valid[..., None]
        vectors = ops.take_along_axis(vectors, rows[..., None], axis=1)
        logits = pixel.correlate(vectors, pixels)
        frames = self.convention.crop(boxes, sizes, _padding(self.test_expand)) * valid[..., None]
        masks = pixel.masks_in_frames(logits, frames, self.mask_side) * valid[..., None, None]
        labels = ops.where(valid > 0.0, labels, PADDING)
        return Detections(boxes, labels, scores, scores, masks, frames), logits

    def refine(self, found, logits, sizes):
        """Detections whose boxes' edges have been moved to the masks', as `box_refinement` says."""
        if self.box_refinement == "none":
            return found
        profiles = _profiles(found, logits)
        if self.box_refinement == "direct":
            boxes = mbrm.enclosing_boxes(*profiles, found.boxes, self.mask_threshold)
        else:
            posteriors = self.refinement(*profiles, found.boxes, sizes)
            boxes = mbrm.likeliest_boxes(posteriors, found.boxes)
        return found._replace(boxes=boxes)

    def refinement_loss(self, found, logits, truth, sizes):
        """(sum, count) of the edges of Detections that lie on an object, see `boundary_loss`."""
        valid = ops.cast(found.labels >= 0, "float32")
        matches = match(found.boxes, valid, truth, thresholds=(_REFINED_IOU, _REFINED_IOU))
        objects = ops.take_along_axis(truth.boxes, matches.objects[..., None], axis=1)
        posteriors = self.refinement(*_profiles(found, logits), found.boxes, sizes)
        return mbrm.boundary_loss(posteriors, objects, matches.positive)

    def mask_loss(self, vectors, matches, pixels, truth, sizes):
        """(sum, count) of the masks of sampled positive anchors, see `pixel.mask_loss`.

        Args:
            vectors: float32 `[B, N, V]` of all anchors.
            matches: Matches `[B, N]` of all anchors.
            pixels: vectors of the pixels, float `[B, H/4, W/4, C]`.
        """
        rows, objects, valid = pixel.sample_instances(
            matches, truth, self.mask_samples, self.sampling_priority
        )
        logits = pixel.correlate(ops.take_along_axis(vectors, rows[..., None], axis=1), pixels)
        targets = pixel.object_masks(truth, *ops.shape(logits)[2:])
        targets = ops.take_along_axis(targets, objects[..., None, None], axis=1)
        boxes = ops.take_along_axis(truth.boxes, objects[..., None], axis=1)
        cells = ops.ceil(ops.cast(sizes, "float32") / pixel.STRIDE)
        crops = ops.concatenate([ops.zeros_like(cells), cells[:, ::-1]], axis=-1)[:, None]
        if self.train_expand is not None:
            padding = _padding(self.train_expand)
            crops = self.convention.crop(boxes, cells, padding, pixel.STRIDE)
        loss = pixel.mask_loss(logits, targets, crops, valid, self.ohem)
        return weighted(loss, self.mask_loss_weight)


def _profiles(found, logits):
    height, width = (pixel.STRIDE * side for side in ops.shape(logits)[2:])
    return mbrm.mask_profiles(logits, found.mask_frames, height, width)


def _padding(expand):
    """What a box is enlarged by on each side, see `Convention.crop`."""
    return (0.5 * (expand - 1.0), 1.0 if expand > 1.0 else 0.0)
