"""What SCNet adds to a cascade: global context of the picture, and relay from boxes to masks.

Source: Vu et al. 2021 (SCNet), sections 3.2 and 3.3, with the layers of its public code.
"""

from keras import layers, ops

from pac_keras.layers import conv_stack, normal_init, relu_init, resize_bilinear
from pac_keras.losses import binary_cross_entropy

_RELAY_SIZE, _MASK_SIZE = 7, 14  # cells per side


class GlobalContextHead(layers.Layer):
    """One vector that describes a picture, and which classes it holds.

    `call(P6 [B, h, w, C]) -> (context [B, 1, 1, channels], logits [B, K])`, logits float32.

    Args:
        num_classes: K.
        channels: of the four convolutions before the mean.
        residual: two ResidualBlocks instead of four plain convolutions.
    """

    def __init__(self, num_classes, channels=256, residual=True, **kwargs):
        super().__init__(**kwargs)
        self.convs = conv_stack(channels, 4, residual)
        self.classes = layers.Dense(
            num_classes, kernel_initializer=normal_init(0.01), dtype="float32"
        )

    def call(self, x):
        for conv in self.convs:
            x = conv(x)
        context = ops.mean(x, axis=(1, 2), keepdims=True)
        return context, self.classes(context[:, 0, 0])


def context_loss(logits, labels):
    """Binary cross entropy of "this class is in the picture" as (sum, count); count is B * K.

    Args:
        logits: float32 `[B, K]`.
        labels: int32 `[B, G]` of the objects; negative ones (padding, crowd) say nothing.
    """
    present = ops.any(labels[:, :, None] == ops.arange(logits.shape[1]), axis=1)
    error = binary_cross_entropy(logits, ops.cast(present, "float32"))
    return ops.sum(error), ops.cast(ops.size(error), "float32")


class FeatureRelay(layers.Layer):
    """Features for the mask head out of what the box head knows of a region.

    `call(hidden [N, fc_channels]) -> [N, 14, 14, channels]`: a dense layer draws 7 x 7 cells, which
    are enlarged (bilinear, corners in place). No activation.
    """

    def __init__(self, channels=256, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.dense = layers.Dense(_RELAY_SIZE**2 * channels, kernel_initializer=relu_init())

    def call(self, hidden):
        x = ops.reshape(self.dense(hidden), (-1, _RELAY_SIZE, _RELAY_SIZE, self.channels))
        return resize_bilinear(x, (_MASK_SIZE, _MASK_SIZE), align_corners=True)


def feature_relays(count, channels, wanted):
    """`count` FeatureRelays, or Nones if they are not `wanted`."""
    return [FeatureRelay(channels) if wanted else None for _ in range(count)]


def relayed(features, relay, stage, pool, boxes):
    """`features` `[N, 14, 14, C]` of `boxes` plus what `stage` relays of the same boxes.

    Args:
        relay: FeatureRelay; None leaves the features as they are.
        stage: BoxStage.
        pool: source of the box branch's features, see `roi/features.py`.
        boxes: float32 `[B, R, 4]`, N = B * R.
    """
    return features if relay is None else features + relay(stage.hidden(pool, boxes))
