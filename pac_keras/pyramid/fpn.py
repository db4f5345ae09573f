"""Feature pyramid networks of two-stage and of one-stage detectors.

Source: Lin et al. 2017, both.
"""

from keras import layers

from pac_keras.layers import double_bilinear, pad_borders


class FPN(layers.Layer):
    """`call({2..5: [B, h, w, C]}) -> {2..6: [B, h, w, channels]}`, strides 4 to 64, linear.

    P6 as in Detectron: every second pixel of P5.
    """

    def __init__(self, channels=256, **kwargs):
        super().__init__(**kwargs)
        self.lateral, self.output_convs = _convolutions(channels, 4)
        self.double = layers.UpSampling2D(2, interpolation="nearest")

    def call(self, maps):
        pyramid = _top_down(maps, 2, self.lateral, self.output_convs, self.double)
        pyramid[6] = pyramid[5][:, ::2, ::2]
        return pyramid


class RetinaFPN(layers.Layer):
    """`call({2..5: [B, h, w, C]}) -> {3..7: [B, h, w, channels]}`, strides 8 to 128, linear.

    P6 is a convolution of C5, P7 one of P6, both of stride 2. A coarser map is enlarged by its
    nearest cells (RetinaNet), or bilinearly (YOLACT).
    """

    def __init__(self, channels=256, bilinear=False, **kwargs):
        super().__init__(**kwargs)
        self.lateral, self.output_convs = _convolutions(channels, 3)
        self.extra_convs = [layers.Conv2D(channels, 3, strides=2) for _ in range(2)]
        self.double = double_bilinear if bilinear else layers.UpSampling2D(2)

    def call(self, maps):
        pyramid = _top_down(maps, 3, self.lateral, self.output_convs, self.double)
        x = maps[5]
        for level, conv in enumerate(self.extra_convs, start=6):
            # Both sides are padded, as in PyTorch; "same" would pad one.
            pyramid[level] = x = conv(pad_borders(x, 1))
        return pyramid


def _convolutions(channels, count):
    lateral = [layers.Conv2D(channels, 1) for _ in range(count)]
    return lateral, [layers.Conv2D(channels, 3, padding="same") for _ in range(count)]


def _top_down(maps, first_level, lateral, output_convs, double):
    """{level: map}: each level is its own lateral map plus the enlarged sum of the coarser ones."""
    merged = [conv(maps[level]) for level, conv in enumerate(lateral, start=first_level)]
    for i in reversed(range(len(merged) - 1)):
        merged[i] = merged[i] + double(merged[i + 1])
    pairs = zip(output_convs, merged, strict=True)
    return {level: conv(x) for level, (conv, x) in enumerate(pairs, start=first_level)}
