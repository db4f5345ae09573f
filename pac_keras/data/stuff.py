"""COCO-stuff pixel maps as the semantic target."""

import numpy as np
from PIL import Image

from pac_keras.structures import IGNORED_PIXEL

NUM_CLASSES = 183  # category ids 1..182 less one, and one that never occurs
_HIGHEST = 181


def read_map(path, size):
    """uint8 `[H, W]`: COCO-stuff category id - 1 (things 0..90, stuff 91..181), 255 = unlabelled.

    Args:
        path: 8-bit single-channel PNG.
        size: (height, width) of the picture that it belongs to.
    Raises:
        FileNotFoundError: no such file.
        ValueError: another size, another pixel mode, or a value in 182..254.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such semantic map")
    try:
        with Image.open(path) as picture:
            mode, labels = picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: unreadable semantic map: {error}") from error
    if mode not in ("L", "P"):
        raise ValueError(f"{path}: expected 8 bits and one channel, got pixel mode {mode!r}")
    if labels.shape != tuple(size):
        raise ValueError(f"{path}: map has size {labels.shape}, its picture {tuple(size)}")
    wrong = labels[(labels > _HIGHEST) & (labels != IGNORED_PIXEL)]
    if wrong.size:
        raise ValueError(
            f"{path}: value {wrong.max()}, expected 0..{_HIGHEST} (category id - 1) or 255"
        )
    return labels
