"""The one definition of reading, resizing and normalising a picture (Pillow and numpy)."""

import io
import os
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from pac_keras.structures import Images

MAX_PIXELS = 89_478_485  # beyond this, Pillow speaks of a decompression bomb
_EXIF_ORIENTATION = 0x0112
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


class Preprocessing(NamedTuple):
    """What happens to a picture before the network: plain numbers that travel with the model.

    Resize to `target_size`; then (pixels - mean) / std per RGB channel; then zero padding to
    multiples of `stride`.

    keep_ratio: True = to `short_side`, unless the long side would exceed `long_side`. False = the
        short side becomes `short_side` and the long one `long_side`, whatever the aspect was
        (550 and 550: every picture becomes 550 x 550).
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    stride: int = 32
    keep_ratio: bool = True  # the last field: older model files end before it


def read_image(file):
    """uint8 `[H, W, 3]`, RGB, as stored: EXIF orientation is not applied, transparency is dropped.

    Args:
        file: a path, or the bytes of an encoded picture. Of an animation the first frame is read;
            16-bit grey is cut to its high byte, as TensorFlow's decoder does.
    Raises:
        FileNotFoundError, IsADirectoryError: nothing to read at that path.
        ValueError: not a picture, damaged, cut off, or more than `MAX_PIXELS` pixels.
    """
    with _open(file) as picture:
        try:
            if picture.mode.startswith("I;16"):
                grey = (np.asarray(picture) >> 8).astype("uint8")
                return np.repeat(grey[..., None], 3, axis=2)
            if picture.mode in ("I", "F"):
                raise ValueError(f"pixel mode {picture.mode!r}, expected 8 or 16 bits")
            return np.asarray(picture.convert("RGB"))
        except _UNREADABLE as error:
            raise ValueError(f"{_name(file)}: unreadable picture: {error}") from error


def exif_orientation(file):
    """The EXIF orientation (1..8) of a picture; 1 where it has none."""
    with _open(file) as picture:
        return picture.getexif().get(_EXIF_ORIENTATION, 1)


def target_size(height, width, preprocessing):
    """(height, width) after the resize; to scale: rounded half up, at least 1.

    Without `keep_ratio` the width of a square counts as its short side, as in a portrait.
    """
    short_side, long_side = preprocessing.short_side, preprocessing.long_side
    if not preprocessing.keep_ratio:
        return (short_side, long_side) if width > height else (long_side, short_side)
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_image(image, size):
    """uint8 `[h, w, 3]`: bilinear with half-pixel centres, no antialias, rounded half up.

    Args:
        image: uint8 `[H, W, 3]`.
        size: (h, w).
    Equals `tf.image.resize(..., antialias=False)` followed by that rounding.
    """
    height, width = image.shape[:2]
    if (height, width) == tuple(size):
        return image
    return _interpolate(image, _neighbours(height, size[0]), _neighbours(width, size[1]))


def resize_window(image, window, size, fill):
    """uint8 `[h, w, 3]`: `resize_image` of a part of a picture that goes on beyond its edges.

    Args:
        image: uint8 `[H, W, 3]`.
        window: (x0, y0, x1, y1) of the part, whole pixels of `image`.
        size: (h, w).
        fill: RGB beyond the picture's edges, in [0, 255].
    The pixels beyond are never laid out: a large window costs no memory.
    """
    part, top, left = _bordered(image, window, np.rint(fill))
    x0, y0, x1, y1 = window
    rows = _moved(_neighbours(y1 - y0, size[0]), top, part.shape[0])
    columns = _moved(_neighbours(x1 - x0, size[1]), left, part.shape[1])
    return _interpolate(part, rows, columns)


def resize_nearest(labels, size):
    """`labels` `[H, W]` at `size` (h, w): the value at each new pixel's centre."""
    rows, columns = (_nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns]


def resize_window_nearest(labels, window, size, fill):
    """`resize_nearest` of the part `window` of `labels`, `fill` beyond; see `resize_window`."""
    part, top, left = _bordered(labels, window, fill)
    x0, y0, x1, y1 = window
    rows = np.clip(_nearest(y1 - y0, size[0]) - top, 0, part.shape[0] - 1)
    columns = np.clip(_nearest(x1 - x0, size[1]) - left, 0, part.shape[1] - 1)
    return part[rows[:, None], columns]


def normalize(image, preprocessing):
    """float32 `[H, W, 3]`: (image - mean) / std."""
    mean = np.asarray(preprocessing.mean, "float32")
    return (image.astype("float32") - mean) / np.asarray(preprocessing.std, "float32")


def prepare(image, preprocessing):
    """float32 `[h, w, 3]`: a stored picture resized and normalised, not yet padded."""
    size = target_size(*image.shape[:2], preprocessing)
    return normalize(resize_image(image, size), preprocessing)


def canvas(size, stride=32):
    """(height, width), each the next multiple of `stride`."""
    return tuple(-(-int(side) // stride) * stride for side in size)


def pad_batch(pictures, canvas):
    """`structures.Images` (numpy): pictures at the top left of a zero canvas.

    Args:
        pictures: float32 arrays `[h, w, 3]`.
        canvas: (height, width) that holds each of them.
    """
    pixels = np.zeros((len(pictures), *canvas, 3), "float32")
    for row, picture in enumerate(pictures):
        pixels[row, : picture.shape[0], : picture.shape[1]] = picture
    sizes = np.asarray([picture.shape[:2] for picture in pictures], "int32").reshape(-1, 2)
    return Images(pixels, sizes)


def _neighbours(old, new):
    """Lower and upper source index of each new pixel and the float32 weight of the upper one."""
    position = (np.arange(new, dtype="float32") + 0.5) * np.float32(old / new) - 0.5
    lower = np.floor(position)
    upper = np.minimum(lower + 1, old - 1)
    return np.maximum(lower, 0).astype("int64"), upper.astype("int64"), position - lower


def _interpolate(image, rows, columns):
    """uint8 `[h, w, 3]`: rows and columns of `image` mixed as `_neighbours` says, rounded."""
    left, right, fraction = columns
    mixed = image.astype("float32")
    start = np.take(mixed, left, axis=1)
    mixed = np.take(mixed, right, axis=1)
    mixed -= start
    mixed *= fraction[:, None]
    mixed += start
    top, bottom, fraction = rows
    resized = np.empty((len(top), len(left), 3), "uint8")
    for begin in range(0, len(top), 64):  # in slices that fit the cache
        part = slice(begin, begin + 64)
        start = mixed[top[part]]
        pixels = mixed[bottom[part]]
        pixels -= start
        pixels *= fraction[part, None, None]
        pixels += start
        pixels += 0.5
        resized[part] = pixels
    return resized


def _nearest(old, new):
    """Source index of each new pixel's centre."""
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype("int64"), old - 1)


def _bordered(image, window, fill):
    """(what `window` shows of `image`, in a border of one pixel `fill`; the row and the column of
    the window where that begins)."""
    x0, y0, x1, y1 = window
    top, left = max(y0, 0), max(x0, 0)
    shown = image[top : max(y1, 0), left : max(x1, 0)]
    part = np.empty((shown.shape[0] + 2, shown.shape[1] + 2, *image.shape[2:]), image.dtype)
    part[...] = fill
    part[1:-1, 1:-1] = shown
    return part, top - y0 - 1, left - x0 - 1


def _moved(neighbours, start, count):
    """`_neighbours` counted from `start`; those outside 0..count - 1 are its ends."""
    lower, upper, fraction = neighbours
    return np.clip(lower - start, 0, count - 1), np.clip(upper - start, 0, count - 1), fraction


def _open(file):
    """A PIL picture whose header was read and whose size is acceptable."""
    if not isinstance(file, bytes):
        if os.path.isdir(file):
            raise IsADirectoryError(f"{file}: expected a picture file, found a folder")
        if not os.path.exists(file):
            raise FileNotFoundError(f"{file}: no such picture file")
    try:
        picture = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{_name(file)}: too large: {error}") from error
    except _UNREADABLE as error:
        raise ValueError(f"{_name(file)}: not a readable picture: {error}") from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        picture.close()
        raise ValueError(
            f"{_name(file)}: too large: {width} x {height} pixels, expected at most {MAX_PIXELS}"
        )
    return picture


def _name(file):
    """What messages call `file`."""
    return f"<{len(file)} bytes>" if isinstance(file, bytes) else str(file)
