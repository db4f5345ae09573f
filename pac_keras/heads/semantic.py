"""Semantic branches: features for the box and mask branches, and a segmentation, with its loss.

Those of the cascades answer `(features [B, H/8, W/8, channels], logits [B, H/8, W/8, S])`, logits
float32; RefineMask's `ObjectSemanticHead` works at stride 4.
"""

from keras import layers, ops

from pac_keras.choices import check_choice
from pac_keras.layers import conv_relu, conv_stack, normal_init, relu_init, resize_bilinear
from pac_keras.losses import binary_cross_entropy, cross_entropy
from pac_keras.masks import middle_pixels
from pac_keras.structures import CROWD, IGNORED_PIXEL

_DILATIONS = (6, 12, 18)
_OBJECT_STRIDE, _CLASS_MAP_STRIDE = 4, 8


class FusedSemanticHead(layers.Layer):
    """HTC's branch: all levels of the pyramid brought to stride 8 and summed, four convolutions.

    Each level is resized first and convolved (1x1, ReLU) afterwards, as in HTC's public code.
    `residual` makes two ResidualBlocks of the four, as in SCNet's.

    Source: Chen et al. 2019, section 3.3.
    """

    def __init__(self, num_semantic_classes, channels=256, residual=False, **kwargs):
        super().__init__(**kwargs)
        self.lateral = [conv_relu(channels, 1) for _ in range(5)]
        self.convs = conv_stack(channels, 4, residual)
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


class ObjectSemanticHead(layers.Layer):
    """RefineMask's branch: features at stride 4, and whether a cell belongs to any object.

    `call(P2 [B, h, w, C]) -> (features [B, h, w, channels], logits float32 [B, h, w, 1])`; None
    instead of logits if not `supervised`. Source: Zhang et al. 2021, section 3.1.
    """

    def __init__(self, channels, supervised, **kwargs):
        super().__init__(**kwargs)
        self.convs = conv_stack(channels, 4)
        self.logits = (
            layers.Conv2D(1, 1, kernel_initializer=relu_init(), dtype="float32")
            if supervised
            else None
        )

    def call(self, x):
        for conv in self.convs:
            x = conv(x)
        return x, None if self.logits is None else self.logits(x)


class ClassMapHead(layers.Layer):
    """YOLACT's branch: one convolution of P3, a map for each class of objects.

    `call(P3 [B, h, w, C]) -> logits float32 [B, h, w, num_classes]`.
    Source: Bolya et al. 2019 (YOLACT), section 5.
    """

    def __init__(self, num_classes, channels, **kwargs):
        super().__init__(**kwargs)
        self.logits = layers.Conv2D(num_classes, 1, dtype="float32")
        self.logits.build((None, None, None, channels))  # no detection ever calls it

    def call(self, x):
        return self.logits(x)


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


def object_loss(logits, ground_truth, sizes):
    """Binary cross entropy of the semantic map's `logits` `[B, h, w, 1]` as (sum, count)."""
    target, counted = object_target(ground_truth, sizes, *ops.shape(logits)[1:3])
    error = counted * binary_cross_entropy(logits[..., 0], target)
    return ops.sum(error), ops.sum(counted)


def object_target(ground_truth, sizes, height, width):
    """Which cells of the map belong to any object: (target, counted), float32 `[B, height, width]`.

    A cell has an object if at least half of its four middle pixels have. Crowds and the padding do
    not count (in the public code both are background).
    """
    labels = ground_truth.labels[..., None, None]
    masks = ops.cast(ground_truth.masks, "float32")
    objects, crowds = 0.0, 0.0
    for drawn in middle_pixels(masks, ground_truth.mask_frames, height, width, _OBJECT_STRIDE):
        objects += ops.cast(ops.any(drawn & (labels >= 0), axis=1), "float32")
        crowds += ops.cast(ops.any(drawn & (labels == CROWD), axis=1), "float32")
    target = ops.cast(objects >= 2.0, "float32")
    inside = cells_inside(sizes, height, width, _OBJECT_STRIDE) > 0.0
    return target, ops.cast(inside & ((crowds < 2.0) | (objects >= 2.0)), "float32")


def class_map_loss(logits, ground_truth, sizes):
    """Binary cross entropy of a map per class, `[B, h, w, K]` at stride 8, as (sum, count).

    Summed over classes; the count is the number of cells inside the pictures. A cell is of a class
    if more than two of its four middle pixels belong to an object of it.
    Source: YOLACT's public code.
    """
    height, width = ops.shape(logits)[1:3]
    masks = ops.cast(ground_truth.masks, "float32")
    drawn = middle_pixels(masks, ground_truth.mask_frames, height, width, _CLASS_MAP_STRIDE)
    cells = ops.cast(sum(ops.cast(x, "float32") for x in drawn) > 2.0, "float32")
    classes = ops.cast(
        ground_truth.labels[..., None] == ops.arange(logits.shape[-1], dtype="int32"), "float32"
    )
    target = ops.minimum(ops.einsum("bghw,bgk->bhwk", cells, classes), 1.0)
    inside = cells_inside(sizes, height, width, _CLASS_MAP_STRIDE)
    error = ops.sum(binary_cross_entropy(logits, target), axis=-1)
    return ops.sum(inside * error), ops.sum(inside)


def cells_inside(sizes, height, width, stride):
    """1 for cells that begin inside their picture, float32 `[B, height, width]`."""
    ends = ops.cast(sizes, "int32")[:, :, None, None]  # [B, 2, 1, 1]
    rows, columns = (stride * ops.arange(n, dtype="int32") for n in (height, width))
    return ops.cast((rows[:, None] < ends[:, 0]) & (columns < ends[:, 1]), "float32")
