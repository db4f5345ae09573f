"""Mask quality: the IoU of each predicted mask with its object, predicted from what it looks like.

Source: Huang et al. 2019 (Mask Scoring R-CNN), figure 3; PAC's MQ module, figures 4 and 7.
"""

import math

from keras import initializers, layers, ops

from pac_keras.choices import check_choice
from pac_keras.heads.mask import object_frames, of_class
from pac_keras.layers import conv_relu, normal_init, pad_borders, relu_init
from pac_keras.masks import share_inside
from pac_keras.structures import Detections


class MaskQualityHead(layers.Layer):
    """IoU of each region's mask with its object, per class.

    `call(features [N, 14, 14, C], mask_logits [N, 28, 28], hidden=None) -> [N, K]`, float32,
    unbounded. The mask enters as a probability, max-pooled to 14 x 14.

    Args:
        num_classes: K.
        channels, fc_channels: width of convolutions and of dense layers.
        num_convs: convolutions; the last one halves the grid.
        takes_hidden: adds the second mask head's `hidden` [N, 14, 14, C'] through a 1x1
            convolution (PAC's ablation "+ mask information flow").
    """

    def __init__(
        self,
        num_classes,
        channels=256,
        fc_channels=1024,
        num_convs=4,
        takes_hidden=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.relay = conv_relu(channels, 1) if takes_hidden else None
        self.shrink = layers.MaxPooling2D(2)
        self.convs = [conv_relu(channels) for _ in range(num_convs - 1)]
        self.last_conv = layers.Conv2D(
            channels, 3, strides=2, activation="relu", kernel_initializer=relu_init()
        )
        self.dense = [_dense_relu(fc_channels) for _ in range(2)]
        self.quality = layers.Dense(
            num_classes, kernel_initializer=normal_init(0.01), dtype="float32"
        )

    def call(self, features, mask_logits, hidden=None):
        if self.relay is not None:
            features = features + self.relay(hidden)
        mask = self.shrink(ops.sigmoid(mask_logits)[..., None])
        x = ops.concatenate([features, ops.cast(mask, features.dtype)], axis=-1)
        for conv in self.convs:
            x = conv(x)
        x = self.last_conv(pad_borders(x, 1))  # with stride 2 "same" would pad one side only
        x = ops.reshape(x, (-1, math.prod(x.shape[1:])))
        for dense in self.dense:
            x = dense(x)
        return self.quality(x)

    def of(self, features, outputs, labels):
        """Predicted IoU of the last stage's masks for their classes, float32 `[B, R]`.

        Args:
            features: `[B * R, 14, 14, C]`, what the mask heads received.
            outputs: MaskOutput of each mask head.
            labels: int `[B, R]`.
        """
        hidden = None if self.relay is None else outputs[1].hidden
        quality = self(features, of_class(outputs[-1].logits, labels), hidden)
        picked = of_class(quality[:, None, None, :], labels)
        return ops.reshape(picked, ops.shape(labels))


def _dense_relu(units):
    init = initializers.VarianceScaling(1.0, mode="fan_in", distribution="uniform")
    return layers.Dense(units, activation="relu", kernel_initializer=init)


def quality_target(mask_logits, targets, rois, matches, ground_truth, threshold=0.0):
    """IoU of each predicted mask with its whole object, float32 `[B, R]` in [0, 1].

    Parts of the object outside the region count as missed.

    Args:
        mask_logits: float32 `[B * R, g, g, K]`.
        targets: float32 `[B, R, g, g]`, the object inside the region.
        rois, matches: `[B, R]`; rows without object give 0.
        ground_truth: GroundTruth.
        threshold: logit from which the prediction is mask; 0 is a probability of one half.
    """
    predicted = ops.cast(of_class(mask_logits, matches.labels) >= threshold, "float32")
    predicted = ops.reshape(predicted, ops.shape(targets))
    inside = share_inside(*object_frames(matches, ground_truth), rois.boxes)
    area = ops.sum(targets, axis=(-2, -1))
    whole_area = area / (inside + 1e-7)
    shared = ops.sum(predicted * targets, axis=(-2, -1))
    union = ops.sum(predicted, axis=(-2, -1)) + whole_area - shared
    return ops.stop_gradient(matches.positive * shared / ops.maximum(union, 1e-6))


def quality_loss(quality, target):
    """Squared error over regions whose target is above 0 as (sum, count); both `[B, R]`."""
    counted = ops.cast(target > 0.0, "float32")
    return ops.sum(counted * ops.square(quality - target)), ops.sum(counted)


def rescored(detections, quality, rescore):
    """Detections whose score is class score times mask quality, best first.

    Args:
        detections: Detections.
        quality: float32 `[B, D]`, the predicted IoU; clipped to [0, 1].
        rescore: "both": `box_scores` change alike; "segm": they stay the class scores.
    """
    check_choice("rescore", rescore, ("both", "segm"))
    scores = detections.scores * ops.clip(quality, 0.0, 1.0)
    box_scores = scores if rescore == "both" else detections.box_scores
    found = detections._replace(scores=scores, box_scores=box_scores)
    # Padding has score 0 as well: it stays behind a detection whose quality is 0.
    ranking = ops.where(detections.labels >= 0, scores, -1.0)
    _, order = ops.top_k(ranking, ranking.shape[1])
    return Detections(*(_take_rows(field, order) for field in found))


def _take_rows(field, rows):
    """`field` `[B, D, ...]` in the order `rows` `[B, D]`."""
    rows = ops.reshape(rows, (-1, rows.shape[1], *(1 for _ in field.shape[2:])))
    return ops.take_along_axis(field, rows, axis=1)
