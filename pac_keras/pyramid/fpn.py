"""Feature pyramid network: {2..5: C2..C5} -> {2..6: P2..P6}.

Source: Lin et al. 2017; P6 as in Detectron, every second pixel of P5.
"""

from keras import layers


class FPN(layers.Layer):
    """`call({2..5: [B, h, w, C]}) -> {2..6: [B, h, w, channels]}`, strides 4 to 64, linear."""

    def __init__(self, channels=256, **kwargs):
        super().__init__(**kwargs)
        self.lateral = [layers.Conv2D(channels, 1) for _ in range(4)]
        self.output_convs = [layers.Conv2D(channels, 3, padding="same") for _ in range(4)]
        self.double = layers.UpSampling2D(2, interpolation="nearest")

    def call(self, maps):
        merged = [conv(maps[level]) for level, conv in enumerate(self.lateral, start=2)]
        for i in (2, 1, 0):
            merged[i] = merged[i] + self.double(merged[i + 1])
        pyramid = {
            level: conv(x)
            for level, (conv, x) in enumerate(zip(self.output_convs, merged, strict=True), start=2)
        }
        pyramid[6] = pyramid[5][:, ::2, ::2]
        return pyramid
