"""Pictures for the tests of exports."""

import io

import numpy as np
from PIL import Image


def noise(height, width):
    """uint8 `[H, W, 3]`: every pixel a random colour, the same ones for each height."""
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype("uint8")


def coarse(height, width, seed=0, channels=3):
    """uint8 `[H, W, channels]`: squares of random colours, which JPEG keeps."""
    shape = height // 8 + 1, width // 8 + 1, channels
    colours = np.random.default_rng(seed).integers(0, 256, shape)
    return np.kron(colours, np.ones((8, 8, 1)))[:height, :width].astype("uint8")


def encoded(image, kind, mode=None, **options):
    """The bytes of the file of an array or a PIL image, in another pixel mode if one is given."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()
