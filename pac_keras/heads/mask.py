"""FCN mask head, the cascade of mask heads, and the mask loss.

Source: He et al. 2017, figure 4; Chen et al. 2019 (HTC), section 3.2.
"""

from typing import NamedTuple

from keras import layers, ops

from pac_keras.choices import check_choice
from pac_keras.layers import conv_relu, conv_stack, normal_init, relu_init
from pac_keras.losses import binary_cross_entropy
from pac_keras.masks import roi_targets
from pac_keras.structures import Tensor


class MaskHead(layers.Layer):
    """Mask logits of each region and class, and the features that the next head may build on.

    `call(features [N, 14, 14, C], carried=None) -> (hidden [N, 14, 14, channels],
    logits [N, 28, 28, K])`, logits float32. `carried` is the previous head's `hidden`; a head
    built with `takes_carried` passes it through a 1x1 convolution and adds it to its features.

    Args:
        num_classes: K.
        channels, num_convs, residual: see `conv_stack`.
        takes_carried: see above.
    """

    def __init__(
        self,
        num_classes,
        channels=256,
        takes_carried=False,
        num_convs=4,
        residual=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.relay = conv_relu(channels, 1) if takes_carried else None
        self.convs = conv_stack(channels, num_convs, residual)
        self.upsample = layers.Conv2DTranspose(
            channels, 2, strides=2, activation="relu", kernel_initializer=relu_init()
        )
        self.logits = layers.Conv2D(
            num_classes, 1, kernel_initializer=normal_init(0.001), dtype="float32"
        )

    def call(self, features, carried=None):
        x = features if carried is None else features + self.relay(carried)
        for conv in self.convs:
            x = conv(x)
        return x, self.logits(self.upsample(x))


def mask_heads(count, num_classes, channels=256, information_flow=True):
    """`count` MaskHeads; with `information_flow` all but the first build on the one before."""
    return [
        MaskHead(num_classes, channels, takes_carried=information_flow and i > 0)
        for i in range(count)
    ]


class MaskOutput(NamedTuple):
    """What a mask head answers.

    hidden: `[N, 14, 14, C]`, what the next head may build on.
    logits: float32 `[N, 28, 28, K]`.
    """

    hidden: Tensor
    logits: Tensor


def mask_cascade(heads, features, information_flow=True):
    """The MaskOutput of each of `heads` for `features` `[N, 14, 14, C]`, in order.

    Each head builds on the one before; without `information_flow` it sees the features alone.
    Training takes the last, inference averages all: one fold, so that the two cannot drift apart.
    """
    outputs, carried = [], None
    for head in heads:
        outputs.append(MaskOutput(*head(features, carried)))
        carried = outputs[-1].hidden if information_flow else None
    return outputs


def stage_masks(outputs, labels, stage="ensemble"):
    """Probability masks of the detected classes, float32 `[B, D, 28, 28]` in [0, 1].

    Args:
        outputs: MaskOutput of each stage, with B * D rows.
        labels: int32 `[B, D]`; padding gives zeros.
        stage: "ensemble" for the mean over stages, or the number of one, from 1.
    """
    check_choice("test_mask_stage", stage, ("ensemble", *range(1, len(outputs) + 1)))
    chosen = outputs if stage == "ensemble" else [outputs[stage - 1]]
    masks = sum(ops.sigmoid(of_class(output.logits, labels)) for output in chosen) / len(chosen)
    return by_detection(masks, labels)


def by_detection(masks, labels):
    """`[B * D, h, w]` as `[B, D, h, w]`, zeros where `labels` `[B, D]` say that nothing is."""
    masks = ops.reshape(masks, (-1, labels.shape[1], *masks.shape[1:]))
    return masks * ops.cast(labels >= 0, "float32")[..., None, None]


def of_class(maps, labels):
    """The map of each region's class: `[N, h, w, K]`, int `[B, R]` with B * R = N -> `[N, h, w]`.

    Negative labels (padding) take class 0.
    """
    labels = ops.clip(ops.reshape(labels, (-1, 1, 1, 1)), 0, maps.shape[-1] - 1)
    return ops.take_along_axis(maps, labels, axis=-1)[..., 0]


class ClassLogits(layers.Layer):
    """A 1x1 convolution, of which each region computes the output of its own class alone.

    `call(features [N, s, s, C], labels [B, R]) -> float32 [N, s, s]`; N = B * R. Of 80 classes'
    logits at 112 cells a side, 100 regions would need 400 MB. Negative labels take class 0.
    """

    def __init__(self, num_classes, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.num_classes = num_classes

    def build(self, features_shape, labels_shape=None):
        shape = 1, 1, features_shape[-1], self.num_classes
        self.kernel = self.add_weight(shape=shape, initializer=relu_init(), name="kernel")
        self.bias = self.add_weight(shape=shape[-1:], initializer="zeros", name="bias")

    def call(self, features, labels):
        labels = ops.clip(ops.reshape(labels, (-1,)), 0, self.num_classes - 1)
        chosen = ops.one_hot(labels, self.num_classes)  # [N, K]: a gather's gradient is sparse
        kernel = ops.matmul(chosen, ops.transpose(self.kernel[0, 0]))  # [N, C]
        bias = ops.matmul(chosen, self.bias)
        return ops.einsum("nhwc,nc->nhw", features, kernel) + bias[:, None, None]


def mask_targets(rois, matches, ground_truth, sizes, grid=28):
    """Target of each region, float32 `[B, R, grid, grid]`, 0 or 1. See `masks.roi_targets`."""
    frames, mask_frames = object_frames(matches, ground_truth)
    return roi_targets(frames, mask_frames, rois.boxes, sizes, grid)


def object_frames(matches, ground_truth):
    """The frame of each region's object: uint8 `[B, R, fh, fw]` and its box `[B, R, 4]`."""
    rows = matches.objects
    return (
        ops.take_along_axis(ground_truth.masks, rows[..., None, None], axis=1),
        ops.take_along_axis(ground_truth.mask_frames, rows[..., None], axis=1),
    )


def mask_loss(logits, targets, matches):
    """Binary cross entropy of the matched class's mask as (sum, count); count is pixels.

    Args:
        logits: float32 `[B * R, g, g, K]`.
        targets: float32 `[B, R, g, g]`.
        matches: Matches `[B, R]`; only positive rows count.
    """
    logits = of_class(logits, ops.where(matches.positive > 0.0, matches.labels, 0))
    targets = ops.reshape(targets, ops.shape(logits))
    positive = ops.reshape(matches.positive, (-1, 1, 1))
    error = positive * binary_cross_entropy(logits, targets)
    pixels = targets.shape[-1] * targets.shape[-2]
    return ops.sum(error), ops.sum(matches.positive) * pixels
