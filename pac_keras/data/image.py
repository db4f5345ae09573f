"""The one definition of reading, resizing and normalising a picture (Pillow and numpy)."""

from typing import NamedTuple


class Preprocessing(NamedTuple):
    """What happens to a picture before the network: plain numbers that travel with the model.

    Keep-ratio resize to `short_side` unless the long side would exceed `long_side`; then
    (pixels - mean) / std per RGB channel; then zero padding to multiples of `stride`.
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    stride: int = 32
