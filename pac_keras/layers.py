"""Building blocks with PyTorch's numerics, so that published weights give the published numbers.

Strided convolutions pad both sides alike (Keras's "same" pads one side only), batch normalisation
uses epsilon 1e-5, and its statistics can be frozen while scale and offset are trained.
"""

import keras
from keras import initializers, layers, ops

BATCH_NORM_EPSILON = 1e-5
GROUP_NORM_EPSILON = 1e-5
_BATCH_NORM_MOMENTUM = 0.9  # PyTorch's momentum 0.1


def relu_init():
    """He's initialiser for what a ReLU follows (fan-out). One for each layer: an initialiser draws
    the same numbers again."""
    return initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def normal_init(deviation):
    """A normal initialiser with the given standard deviation, for one layer."""
    return initializers.RandomNormal(stddev=deviation)


class BatchNorm(layers.BatchNormalization):
    """Batch normalisation, over all replicas; `frozen` keeps the stored statistics in training.

    With frozen statistics, scale and offset are still trained unless `trainable` is False.
    """

    def __init__(self, frozen=False, **kwargs):
        super().__init__(
            momentum=_BATCH_NORM_MOMENTUM,
            epsilon=BATCH_NORM_EPSILON,
            synchronized=keras.backend.backend() == "tensorflow",
            **kwargs,
        )
        self.frozen = frozen

    def call(self, inputs, training=None):
        return super().call(inputs, training=False if self.frozen else training)


class ConvNorm(layers.Layer):
    """Convolution without bias, batch normalisation, and ReLU if `activate`.

    `call([B, H, W, C]) -> [B, ceil(H / strides), ceil(W / strides), filters]`.
    """

    def __init__(
        self, filters, kernel_size, strides=1, groups=1, activate=True, frozen_norm=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.pad = (kernel_size - 1) // 2
        self.convolution = layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            groups=groups,
            use_bias=False,
            kernel_initializer=relu_init(),
        )
        self.norm = BatchNorm(frozen=frozen_norm)
        self.activate = activate

    def call(self, x):
        x = self.norm(self.convolution(pad_borders(x, self.pad)))
        return ops.relu(x) if self.activate else x


class ConvGroupNorm(layers.Layer):
    """3x3 convolution without bias, group normalisation, ReLU; keeps the size.

    `groups` is the number of groups that the `filters` are normalised in.
    """

    def __init__(self, filters, groups, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.convolution = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer=kernel_initializer
        )
        self.norm = layers.GroupNormalization(groups, epsilon=GROUP_NORM_EPSILON)

    def call(self, x):
        return ops.relu(self.norm(self.convolution(x)))


def pad_borders(x, width, value=0.0):
    """`[B, H, W, C]` with `width` pixels of `value` on all four sides."""
    if width == 0:
        return x
    return ops.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), constant_values=value)


def conv_relu(filters, kernel_size=3, **kwargs):
    """A convolution with bias and ReLU that keeps the size; He-initialised."""
    return layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        activation="relu",
        kernel_initializer=relu_init(),
        **kwargs,
    )


class ResidualBlock(layers.Layer):
    """Two 3x3 convolutions with bias around a shortcut; no normalisation, no ReLU behind the sum.

    `call([B, H, W, filters]) -> [B, H, W, filters]`. Source: Vu et al. 2021 (SCNet), public code.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.first = conv_relu(filters)
        self.second = layers.Conv2D(filters, 3, padding="same", kernel_initializer=relu_init())

    def call(self, x):
        return x + self.second(self.first(x))


def conv_stack(filters, num_convs, residual=False):
    """`num_convs` 3x3 convolutions with ReLU, or half as many ResidualBlocks, as a list."""
    if residual:
        return [ResidualBlock(filters) for _ in range(num_convs // 2)]
    return [conv_relu(filters) for _ in range(num_convs)]


def resize_bilinear(x, size, align_corners=False):
    """`x` `[B, h, w, C]` resized to `size` (height, width; numbers or scalar tensors), bilinear.

    Two products with interpolation weights: the same on all backends, for unknown sizes too.

    Args:
        align_corners: the corner pixels' centres stay in place (as HTC's public code resizes before
            its 1x1 convolutions); otherwise the picture's edges do. No smoothing when shrinking.
    """
    rows = _linear_weights(ops.shape(x)[1], size[0], align_corners)  # [H, h]
    columns = _linear_weights(ops.shape(x)[2], size[1], align_corners)  # [W, w]
    x = ops.einsum("Hh,bhwc->bHwc", ops.cast(rows, x.dtype), x)
    return ops.einsum("Ww,bhwc->bhWc", ops.cast(columns, x.dtype), x)


def double_bilinear(x, align_corners=False):
    """`x` `[B, h, w, C]` with twice as many rows and columns, see `resize_bilinear`."""
    height, width = ops.shape(x)[1:3]
    return resize_bilinear(x, (2 * height, 2 * width), align_corners)


def _linear_weights(length, new_length, align_corners):
    """Linear interpolation weights float32 `[new_length, length]`."""
    # On JAX the counts are plain numbers, and `arange` needs them as such under jit.
    grid = ops.cast(ops.arange(length), "float32")
    place = ops.cast(ops.arange(new_length), "float32")
    length, new_length = ops.cast(length, "float32"), ops.cast(new_length, "float32")
    if align_corners:
        place = place * (length - 1.0) / ops.maximum(new_length - 1.0, 1.0)
    else:
        place = ops.clip((place + 0.5) * length / new_length - 0.5, 0.0, length - 1.0)
    return ops.maximum(1.0 - ops.abs(place[:, None] - grid[None, :]), 0.0)
