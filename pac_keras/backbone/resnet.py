"""ResNet and ResNeXt: picture -> {2: C2, 3: C3, 4: C4, 5: C5} at strides 4, 8, 16, 32.

Source: He et al. 2016, Xie et al. 2017, with the stride on the 3x3 convolution as in torchvision;
on the first 1x1 convolution in the "caffe" variants, which some published weights need.
"""

from typing import NamedTuple

import numpy as np
from keras import layers, ops

from pac_keras.choices import check_choice
from pac_keras.layers import BatchNorm, ConvNorm, pad_borders


class Architecture(NamedTuple):
    """blocks: per stage; group_width: of a group in the first stage; stride_first: see above."""

    blocks: tuple[int, ...]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64
    stride_first: bool = False


ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3)),
    "resnet101": Architecture((3, 4, 23, 3)),
    "resnext101_32x4d": Architecture((3, 4, 23, 3), groups=32, group_width=4),
    "resnext101_64x4d": Architecture((3, 4, 23, 3), groups=64, group_width=4),
    "resnet50_caffe": Architecture((3, 4, 6, 3), stride_first=True),
    "resnet101_caffe": Architecture((3, 4, 23, 3), stride_first=True),
}
_EXPANSION = 4  # of a bottleneck's output


class ResNet(layers.Layer):
    """`call(pixels [B, H, W, 3]) -> {2..5: [B, H/4.., W/4.., C]}`.

    Args:
        architecture: a key of `ARCHITECTURES`.
        base_channels: width of the first stage; 64 in the papers.
        frozen_stages: 0 trains everything; n freezes the stem and the first n stages.
        norm: "frozen" keeps the stored batch statistics in training (scale and offset are still
            trained, as in the papers), "batch" uses and updates them.

    Raises:
        ValueError: names the argument, what is possible and what came.
    """

    def __init__(
        self, architecture="resnet50", base_channels=64, frozen_stages=1, norm="frozen", **kwargs
    ):
        super().__init__(**kwargs)
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"`backbone` must be one of {sorted(ARCHITECTURES)} or a backbone layer. "
                f"Received: backbone={architecture!r}"
            )
        check_choice("norm", norm, ("frozen", "batch"))
        check_choice("frozen_stages", frozen_stages, range(5))
        kind = ARCHITECTURES[architecture]
        frozen = norm == "frozen"
        self.stride_first = kind.stride_first
        self.stem = ConvNorm(base_channels, 7, strides=2, frozen_norm=frozen)
        self.blocks, self.block_levels = [], []
        for stage, count in enumerate(kind.blocks):
            channels = base_channels * 2**stage
            width = channels if kind.groups == 1 else kind.groups * kind.group_width * 2**stage
            for i in range(count):
                strides = 2 if stage > 0 and i == 0 else 1
                self.blocks.append(
                    _Bottleneck(channels * _EXPANSION, width, strides, kind, i == 0, frozen)
                    if kind.bottleneck
                    else _BasicBlock(channels, strides, frozen)
                )
                self.block_levels.append(stage + 2)
        self.stem.trainable = frozen_stages == 0
        for block, level in zip(self.blocks, self.block_levels, strict=True):
            block.trainable = level > frozen_stages + 1

    def call(self, pixels, training=None):
        x = self.stem(pixels)
        # The stem's output is not negative, so zero padding is as good as -inf for the maximum.
        x = ops.max_pool(pad_borders(x, 1), 3, strides=2, padding="valid")
        maps = {}
        for block, level in zip(self.blocks, self.block_levels, strict=True):
            maps[level] = x = block(x)
        return maps

    def untouched_statistics(self):
        """Names of batch norms whose frozen statistics are still the initial mean 0, variance 1.

        Such layers do not normalise at all: pretrained weights were never loaded into them.
        """
        return [
            layer.path
            for layer in self._flatten_layers()
            if isinstance(layer, BatchNorm)
            and (layer.frozen or not layer.trainable)
            and not np.any(layer.moving_mean)
            and np.all(np.asarray(layer.moving_variance) == 1)
        ]


class _BasicBlock(layers.Layer):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels, strides, frozen_norm, **kwargs):
        super().__init__(**kwargs)
        self.first = ConvNorm(channels, 3, strides, frozen_norm=frozen_norm)
        self.second = ConvNorm(channels, 3, activate=False, frozen_norm=frozen_norm)
        self.shortcut = (
            ConvNorm(channels, 1, strides, activate=False, frozen_norm=frozen_norm)
            if strides > 1
            else None
        )

    def convolutions(self):
        """Its ConvNorms on the way, in order."""
        return self.first, self.second

    def call(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return ops.relu(self.second(self.first(x)) + shortcut)


class _Bottleneck(layers.Layer):
    """1x1, (grouped) 3x3, 1x1 around a shortcut, which `project` convolves."""

    def __init__(self, channels, width, strides, kind, project, frozen_norm, **kwargs):
        super().__init__(**kwargs)
        first, second = (strides, 1) if kind.stride_first else (1, strides)
        self.reduce = ConvNorm(width, 1, first, frozen_norm=frozen_norm)
        self.spatial = ConvNorm(width, 3, second, kind.groups, frozen_norm=frozen_norm)
        self.expand = ConvNorm(channels, 1, activate=False, frozen_norm=frozen_norm)
        self.shortcut = (
            ConvNorm(channels, 1, strides, activate=False, frozen_norm=frozen_norm)
            if project
            else None
        )

    def convolutions(self):
        """Its ConvNorms on the way, in order."""
        return self.reduce, self.spatial, self.expand

    def call(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return ops.relu(self.expand(self.spatial(self.reduce(x))) + shortcut)
