"""Augmentations: functions Sample -> Sample. Geometry is added to `Sample.transform`; shapes stay
in stored pixels and are drawn last."""

from typing import NamedTuple

import numpy as np

from pac_keras.data.frames import rasterise
from pac_keras.data.image import (
    resize_image,
    resize_nearest,
    resize_window,
    resize_window_nearest,
    target_size,
)
from pac_keras.structures import IGNORED_PIXEL

_BRIGHTNESS = 32.0  # most that is added, of 255
_CONTRAST = _SATURATION = (0.5, 1.5)  # factors
_HUE = 18.0  # most that is turned, degrees
_WHOLE = None  # instead of a least IoU: no crop
_LEAST_IOUS = (_WHOLE, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_CROP_SIDES = (0.3, 1.0)  # of a crop, in sides of the picture
_CROP_ASPECTS = (0.5, 2.0)  # height / width
_CROP_TRIALS = 50  # for each least IoU
_CELLS = 112  # per side at most, to look whether a crop leaves something of an object


class Augmentation(NamedTuple):
    """What training changes at random.

    flip: probability of a horizontal flip.
    short_sides: one is drawn per picture instead of `Preprocessing.short_side`; empty = that one.
    photometric: other brightness, contrast, saturation and hue (`distort`).
    expand: in half of the pictures, the picture lies somewhere on a canvas of the mean colour whose
        sides are up to this many times as long (`expanded_window`); 1 = never.
    crop: a part of the picture that keeps a least IoU with an object (`cropped_window`). Objects
        whose centre is outside are dropped.
    jitter: (least, most) factor of the size that the picture is resized to, drawn evenly; of what
        is larger then, a part of the old size is shown (`jittered_window`); empty = 1. Not
        together with `expand` and `crop`.

    `photometric`, `expand` (4) and `crop` are SSD's (Liu et al. 2016, section 2.2), `jitter` with
    (0.1, 2.0) is the large scale jitter of Ghiasi et al. 2021, section 3.2. With `keep_ratio` what
    they make fits into the size that the whole picture would have.
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] = ()
    photometric: bool = False
    expand: float = 1.0
    crop: bool = False
    jitter: tuple[float, ...] = ()


def augment(sample, preprocessing, augmentation, random):
    """The sample distorted, expanded, cropped, resized and flipped: each if asked for, by chance.

    Args:
        random: `numpy.random.Generator`; the draws for short side and flip are always taken first.
    """
    draw_side, draw_flip = random.random(2)
    if augmentation.short_sides:
        side = augmentation.short_sides[int(draw_side * len(augmentation.short_sides))]
        preprocessing = preprocessing._replace(short_side=side)
    if augmentation.photometric:
        sample = distort(sample, random)
    size = target_size(*sample.image.shape[:2], preprocessing)
    if augmentation.expand > 1 or augmentation.crop:
        window = expanded_window(sample.image.shape[:2], augmentation.expand, random)
        if augmentation.crop:
            window = cropped_window(window, sample, random)
        size = _fitted(window, size) if preprocessing.keep_ratio else size
        sample = cut(sample, window, size, preprocessing.mean)
    elif augmentation.jitter:
        window, size = jittered_window(sample.image.shape[:2], size, augmentation.jitter, random)
        sample = cut(sample, window, size, preprocessing.mean)
    else:
        sample = resize(sample, size)
    return flip(sample) if draw_flip < augmentation.flip else sample


def resize_to_target(sample, preprocessing):
    """The sample at `image.target_size`."""
    return resize(sample, target_size(*sample.image.shape[:2], preprocessing))


def resize(sample, size):
    """The sample at `size` (height, width); boxes scaled per axis and clipped to it."""
    height, width = sample.image.shape[:2]
    scale = np.asarray([size[1] / width, size[0] / height], "float32")
    limits = np.asarray([size[1], size[0]] * 2, "float32")
    return sample._replace(
        image=resize_image(sample.image, size),
        boxes=np.clip(sample.boxes * np.tile(scale, 2), 0, limits),
        semantic=None if sample.semantic is None else resize_nearest(sample.semantic, size),
        transform=sample.transform * scale[:, None],
    )


def flip(sample):
    """The sample mirrored left to right: x becomes width - x."""
    width = np.float32(sample.image.shape[1])
    left, top, right, bottom = sample.boxes.T
    (scale, offset), vertical = sample.transform
    return sample._replace(
        image=sample.image[:, ::-1],
        boxes=np.stack([width - right, top, width - left, bottom], axis=1),
        semantic=None if sample.semantic is None else sample.semantic[:, ::-1],
        transform=np.asarray([[-scale, width - offset], vertical], "float32"),
    )


def cut(sample, window, size, fill):
    """The part `window` of the sample, at `size`; only `visible_objects` stay, boxes clipped to it.

    Args:
        window: (x0, y0, x1, y1), whole pixels of the sample's picture; may reach beyond it.
        size: (height, width).
        fill: RGB beyond the picture's edges. The semantic map is ignored there.
    """
    x0, y0, x1, y1 = window
    corner = np.asarray([x0, y0], "float32")
    scale = np.asarray([size[1] / (x1 - x0), size[0] / (y1 - y0)], "float32")
    limits = np.asarray([size[1], size[0]] * 2, "float32")
    kept = np.flatnonzero(visible_objects(sample, window))
    boxes = (sample.boxes[kept] - np.tile(corner, 2)) * np.tile(scale, 2)
    semantic = sample.semantic
    if semantic is not None:
        semantic = resize_window_nearest(semantic, window, size, IGNORED_PIXEL)
    return sample._replace(
        image=resize_window(sample.image, window, size, fill),
        boxes=np.clip(boxes, 0, limits),
        labels=sample.labels[kept],
        segmentations=tuple(sample.segmentations[row] for row in kept),
        semantic=semantic,
        transform=(sample.transform - [[0, x0], [0, y0]]).astype("float32") * scale[:, None],
    )


def visible_objects(sample, window):
    """bool `[G]`: the box has its centre inside `window`, and some of the shape is inside, too.

    All of them where the window holds the whole picture.
    """
    height, width = sample.image.shape[:2]
    low, high = np.asarray(window[:2]), np.asarray(window[2:])
    if (low <= 0).all() and (high >= (width, height)).all():
        return np.ones(len(sample.labels), bool)
    centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
    visible = ((centres > low) & (centres < high)).all(axis=1)
    boxes = np.clip(sample.boxes, np.tile(low, 2), np.tile(high, 2))
    for row in np.flatnonzero(visible):
        sides = boxes[row, 2:] - boxes[row, :2]
        if (sides <= 0).any():
            visible[row] = False
        elif (boxes[row] != sample.boxes[row]).any():
            grid = np.clip(np.ceil(sides[::-1]), 1, _CELLS).astype("int64")
            shape = sample.segmentations[row]
            visible[row] = rasterise(shape, sample.transform, boxes[row], grid).any()
    return visible


def expanded_window(size, largest, random):
    """(x0, y0, x1, y1) of a canvas around a picture of `size` (height, width), whole pixels of it.

    With probability 1/2 the picture itself; else its sides are 1 to `largest` times as long, and
    the picture lies anywhere on it. Source: SSD's public code (`largest` = 4).
    """
    height, width = size
    factor = random.uniform(1, largest) if random.random() < 0.5 else 1.0
    wide, high = int(width * factor), int(height * factor)
    left = int(random.integers(wide - width, endpoint=True))
    top = int(random.integers(high - height, endpoint=True))
    return -left, -top, wide - left, high - top


def jittered_window(shape, size, factors, random):
    """(window, size) for `cut`: the picture larger or smaller by a random factor, within `size`.

    Args:
        shape, size: (height, width) of the picture, and that it would be resized to.
        factors: (least, most). Below 1 all of the picture is shown smaller; above, any part of it.
    """
    factor = random.uniform(*factors)
    if factor <= 1:
        smaller = (max(int(side * factor + 0.5), 1) for side in size)
        return (0, 0, shape[1], shape[0]), tuple(smaller)
    high, wide = (max(int(side / factor + 0.5), 1) for side in shape)
    left = int(random.integers(shape[1] - wide, endpoint=True))
    top = int(random.integers(shape[0] - high, endpoint=True))
    return (left, top, left + wide, top + high), tuple(size)


def cropped_window(window, sample, random):
    """A part of `window` that shows an object of the sample, or all of it.

    The least IoU is drawn from none (0), 0.1, 0.3, 0.5, 0.7, 0.9 and "all of the window". Then the
    first of 50 random parts is taken whose IoU with the box of an object is at least that. Where
    there is none, the next least IoU is drawn. Crowds are no objects.

    Source: SSD's public code. YOLACT draws alike, but there the IoU is not looked at: a condition
    that is never met.
    """
    objects = sample.labels >= 0
    for index in random.permutation(len(_LEAST_IOUS)):
        if _LEAST_IOUS[index] is _WHOLE:
            break
        parts = _random_parts(window, random)
        overlaps = _ious(parts, sample.boxes[objects])  # [P, G]
        for row in np.flatnonzero((overlaps >= _LEAST_IOUS[index]).any(axis=1)):
            part = tuple(parts[row].tolist())
            if (visible_objects(sample, part) & objects).any():
                return part
    return window


def distort(sample, random):
    """The sample with other brightness, contrast, saturation and hue, each with probability 1/2.

    Contrast changes before or after saturation and hue. Values are cut to 0..255 once, at the end.
    Source: SSD's public code; hue in degrees and the late cut are its PyTorch ports', YOLACT's too.
    """
    image = sample.image.astype("float32")
    brighten, stretch, saturate, turn, early = random.random(5) < 0.5
    contrast, saturation = random.uniform(*_CONTRAST), random.uniform(*_SATURATION)
    shift, degrees = random.uniform((-_BRIGHTNESS, -_HUE), (_BRIGHTNESS, _HUE))
    if brighten:
        image += shift
    if stretch and early:
        image *= contrast
    if saturate:
        image = scale_saturation(image, saturation)
    if turn:
        image = turn_hue(image, degrees)
    if stretch and not early:
        image *= contrast
    return sample._replace(image=np.clip(np.rint(image), 0, 255).astype("uint8"))


def scale_saturation(image, factor):
    """float32 `[H, W, 3]`, RGB: HSV's saturation times `factor`; hue and value stay."""
    value = _brightest(image)[..., None]
    return value - np.float32(factor) * (value - image)


def turn_hue(image, degrees):
    """float32 `[H, W, 3]`, RGB: HSV's hue plus `degrees`; saturation and value stay."""
    red, green, blue = (image[..., channel] for channel in range(3))
    value = _brightest(image)
    chroma = value + _brightest(-image)
    share = np.maximum(chroma, 1e-6)
    hue = np.where(value == green, 2 + (blue - red) / share, 4 + (red - green) / share)
    hue = np.where(value == red, (green - blue) / share, hue) + np.float32(degrees / 60)
    hue -= 6 * np.floor(hue / 6)  # sixths of the circle: red 0, green 2, blue 4
    bright = np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)
    return np.stack([value - chroma * (1 - np.clip(x, 0, 1)) for x in bright], axis=2)


def _brightest(image):
    """float32 `[H, W]`: the largest of three channels (numpy's `max` takes ten times as long)."""
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


def _fitted(window, size):
    """(height, width) of `window` to scale, as large as fits into `size`."""
    sides = np.asarray([window[3] - window[1], window[2] - window[0]])
    scale = np.min(np.asarray(size) / sides)
    return tuple(max(int(side * scale + 0.5), 1) for side in sides)


def _random_parts(window, random):
    """int `[P, 4]`, P <= 50: parts of `window` (xyxy, whole pixels) of the sides and aspects that
    `_CROP_SIDES` and `_CROP_ASPECTS` allow."""
    low, whole = np.asarray(window[:2]), np.subtract(window[2:], window[:2])
    sides = (random.uniform(*_CROP_SIDES, (_CROP_TRIALS, 2)) * whole).astype("int64")  # width first
    corners = (random.random((_CROP_TRIALS, 2)) * (whole - sides + 1)).astype("int64") + low
    width, height = np.maximum(sides, 1).T
    aspects = height / width
    good = (aspects >= _CROP_ASPECTS[0]) & (aspects <= _CROP_ASPECTS[1]) & (sides > 0).all(axis=1)
    return np.concatenate([corners, corners + sides], axis=1)[good]


def _ious(parts, boxes):
    """float64 `[P, G]`: IoU of each part with each box, both xyxy."""
    low = np.maximum(parts[:, None, :2], boxes[None, :, :2])
    high = np.minimum(parts[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas, sizes = ((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (parts, boxes))
    return shared / np.maximum(areas[:, None] + sizes - shared, 1e-6)
