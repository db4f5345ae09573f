"""Box head of two fully connected layers, and its loss.

Source: Lin et al. 2017, section 4.2 (two layers of 1024); class-agnostic deltas: Cai et al. 2018.
"""

import math

from keras import layers, ops

from pac_keras.boxes import encode_deltas
from pac_keras.layers import normal_init
from pac_keras.losses import cross_entropy, smooth_l1


class BoxHead(layers.Layer):
    """Class logits and box deltas of each region.

    `call(features [N, 7, 7, C]) -> (logits [N, K + 1], deltas [N, 4])`, float32; the last class is
    background; the deltas serve all classes. If `class_specific`, each class has its own: `[N, K,
    4]`.
    """

    def __init__(self, num_classes, fc_channels=1024, class_specific=False, **kwargs):
        super().__init__(**kwargs)
        self.dense = [layers.Dense(fc_channels, activation="relu") for _ in range(2)]
        self.classes = layers.Dense(
            num_classes + 1, kernel_initializer=normal_init(0.01), dtype="float32"
        )
        self.delta_shape = (num_classes, 4) if class_specific else (4,)
        self.deltas = layers.Dense(
            math.prod(self.delta_shape), kernel_initializer=normal_init(0.001), dtype="float32"
        )

    def call(self, features):
        x = self.hidden(features)
        return self.classes(x), ops.reshape(self.deltas(x), (-1, *self.delta_shape))

    def hidden(self, features):
        """What the last dense layer knows of each region, `[N, fc_channels]`."""
        x = ops.reshape(features, (-1, math.prod(features.shape[1:])))
        for dense in self.dense:
            x = dense(x)
        return x


def deltas_of(deltas, labels):
    """Deltas `[B, R, 4]` of each region's class, out of `[B, R, 4]` or `[B, R, K, 4]`.

    Labels that are no class (background, padding) take the nearest one's.
    """
    if len(deltas.shape) == 3:
        return deltas
    labels = ops.clip(labels, 0, deltas.shape[2] - 1)
    return ops.take_along_axis(deltas, labels[..., None, None], axis=2)[:, :, 0]


def likely_labels(logits, matches):
    """The class whose deltas move each sampled region: its object's, or else the likeliest.

    `logits` `[B, R, K + 1]`, Matches `[B, R]` -> int32 `[B, R]`.
    """
    likeliest = ops.cast(ops.argmax(logits[..., :-1], axis=-1), "int32")
    return ops.where(matches.positive > 0.0, matches.labels, likeliest)


def box_loss(logits, deltas, rois, matches, ground_truth, scale, box_error=smooth_l1):
    """Class and box loss of sampled regions: {"class": (sum, count), "box": (sum, count)}.

    Both counts are the number of regions, positive and background.

    Args:
        logits: float32 `[B, R, K + 1]`.
        deltas: float32 `[B, R, 4]`, or `[B, R, K, 4]`, of which the matched class's count.
        rois, matches: the sample, `[B, R]`.
        ground_truth: GroundTruth.
        scale: four target deviations.
        box_error: elementwise function (predicted, target) -> error.
    """
    counted = ops.cast(matches.labels >= 0, "float32")
    classes = counted * cross_entropy(logits, ops.maximum(matches.labels, 0))
    boxes = ops.take_along_axis(ground_truth.boxes, matches.objects[..., None], axis=1)
    error = box_error(deltas_of(deltas, matches.labels), encode_deltas(boxes, rois.boxes, scale))
    error = matches.positive[..., None] * error
    count = ops.sum(counted)
    return {"class": (ops.sum(classes), count), "box": (ops.sum(error), count)}
