"""Semantic branches: features at stride 8 for the box and mask branches, and a segmentation.

All branches answer `(features [B, H/8, W/8, channels], logits [B, H/8, W/8, S])`; logits float32.
"""

from keras import layers, ops

from pac_keras.choices import check_choice
from pac_keras.layers import conv_relu, normal_init, resize_bilinear
from pac_keras.losses import cross_entropy
from pac_keras.structures import IGNORED_PIXEL

_DILATIONS = (6, 12, 18)


class FusedSemanticHead(layers.Layer):
    """HTC's branch: all levels of the pyramid brought to stride 8 and summed, four convolutions.

    Each level is resized first and convolved (1x1, ReLU) afterwards, as in HTC's public code.

    Source: Chen et al. 2019, section 3.3.
    """

    def __init__(self, num_semantic_classes, channels=256, **kwargs):
        super().__init__(**kwargs)
        self.lateral = [conv_relu(channels, 1) for _ in range(5)]
        self.convs = [conv_relu(channels) for _ in range(4)]
        self.embedding = conv_relu(channels, 1)
        self.logits = _semantic_logits(num_semantic_classes)

    def call(self, pyramid):
        size = ops.shape(pyramid[3])[1:3]
        x = sum(
            conv(pyramid[level] if level == 3 else resize_bilinear(pyramid[level], size, True))
            for level, conv in enumerate(self.lateral, start=2)
        )
        for conv in self.convs:
            x = conv(x)
        return self.embedding(x), self.logits(x)


class AtrousSemanticHead(layers.Layer):
    """PAC's branch: atrous convolutions of P5 see far, P3 keeps the borders.

    `pooling` is the encoder of P5, `PASPE` or `ASPP`; its output is brought to stride 8
    (bilinear), stacked with P3 and decoded by `decoder_convs` 3x3 convolutions.

    Source: PAC, figure 3; the decoder follows DeepLabv3+ (Chen et al. 2018).
    """

    def __init__(self, pooling, num_semantic_classes, channels=256, decoder_convs=2, **kwargs):
        super().__init__(**kwargs)
        self.pooling = pooling
        self.decoder = [conv_relu(channels) for _ in range(decoder_convs)]
        self.embedding = conv_relu(channels, 1)
        self.logits = _semantic_logits(num_semantic_classes)

    def call(self, pyramid):
        wide = resize_bilinear(self.pooling(pyramid[5]), ops.shape(pyramid[3])[1:3])
        x = ops.concatenate([wide, pyramid[3]], axis=-1)
        for conv in self.decoder:
            x = conv(x)
        return self.embedding(x), self.logits(x)


class PASPE(layers.Layer):
    """Partial atrous spatial pyramid: 1x1, 3x3, 3x3 at dilations 6, 12, 18, and the global mean.

    `call([B, h, w, C]) -> [B, h, w, channels]`; the six are stacked and fused by a 1x1 convolution.

    Source: PAC, section on the semantic branch: five convolutions, none after the pooling.
    """

    def __init__(self, channels=256, **kwargs):
        super().__init__(**kwargs)
        self.branches = [
            conv_relu(channels, 1),
            conv_relu(channels),
            *(conv_relu(channels, dilation_rate=rate) for rate in _DILATIONS),
        ]
        self.fuse = conv_relu(channels, 1)

    def call(self, x):
        mean = ops.mean(x, axis=(1, 2), keepdims=True)
        pooled = ops.broadcast_to(mean, ops.shape(x))
        return self.fuse(ops.concatenate([*(conv(x) for conv in self.branches), pooled], axis=-1))


class ASPP(layers.Layer):
    """Atrous spatial pyramid pooling: 1x1, 3x3 at dilations 6, 12, 18, and the convolved mean.

    `call([B, h, w, C]) -> [B, h, w, channels]`. Source: Chen et al. 2017 (DeepLabv3), figure 5.
    """

    def __init__(self, channels=256, **kwargs):
        super().__init__(**kwargs)
        self.branches = [
            conv_relu(channels, 1),
            *(conv_relu(channels, dilation_rate=rate) for rate in _DILATIONS),
        ]
        self.pooled = conv_relu(channels, 1)
        self.fuse = conv_relu(channels, 1)

    def call(self, x):
        mean = self.pooled(ops.mean(x, axis=(1, 2), keepdims=True))
        pooled = ops.broadcast_to(mean, (*ops.shape(x)[:3], mean.shape[-1]))
        return self.fuse(ops.concatenate([*(conv(x) for conv in self.branches), pooled], axis=-1))


def semantic_head(kind, num_semantic_classes, channels=256, decoder_convs=2):
    """The semantic branch "paspe", "aspp" or "htc"; None for "none".

    Raises:
        ValueError: unknown `kind`.
    """
    check_choice("semantic", kind, ("paspe", "aspp", "htc", "none"))
    if kind == "none":
        return None
    if kind == "htc":
        return FusedSemanticHead(num_semantic_classes, channels)
    pooling = PASPE(channels) if kind == "paspe" else ASPP(channels)
    return AtrousSemanticHead(pooling, num_semantic_classes, channels, decoder_convs)


def _semantic_logits(num_semantic_classes):
    return layers.Conv2D(
        num_semantic_classes, 1, kernel_initializer=normal_init(0.01), dtype="float32"
    )


def semantic_loss(logits, target):
    """Cross entropy over cells that are not ignored as (sum, count).

    Args:
        logits: float32 `[B, h, w, S]`.
        target: uint8 `[B, h, w]`, 0..S-1 or `IGNORED_PIXEL`.
    """
    target = ops.cast(target, "int32")
    counted = ops.cast(target != IGNORED_PIXEL, "float32")
    error = cross_entropy(logits, ops.where(target != IGNORED_PIXEL, target, 0))
    return ops.sum(counted * error), ops.sum(counted)
