"""Augmentations: functions Sample -> Sample. Geometry is added to `Sample.transform`; shapes stay
in stored pixels and are drawn last."""

from typing import NamedTuple

import numpy as np

from pac_keras.data.image import resize_image, resize_nearest, target_size


class Augmentation(NamedTuple):
    """What training changes at random.

    flip: probability of a horizontal flip.
    short_sides: one is drawn per picture instead of `Preprocessing.short_side`; empty = that one.
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] = ()


def augment(sample, preprocessing, augmentation, random):
    """The sample resized (short side drawn where there is a choice) and flipped by chance.

    Args:
        random: `numpy.random.Generator`; both draws are always taken, in this order.
    """
    draw_side, draw_flip = random.random(2)
    if augmentation.short_sides:
        side = augmentation.short_sides[int(draw_side * len(augmentation.short_sides))]
        preprocessing = preprocessing._replace(short_side=side)
    sample = resize_keep_ratio(sample, preprocessing)
    return flip(sample) if draw_flip < augmentation.flip else sample


def resize_keep_ratio(sample, preprocessing):
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
