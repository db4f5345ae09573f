"""Procedural scenes: textured shapes that overlap in front of textured ground.

A scene is a function of its size and random generator alone. What makes a class is the outline (or,
for the ground, the pattern), never the colour. Every outline is thin, concave or holed: whoever
knows an object's box but not its border has its mask wrong.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from pac_keras.data import patterns

THINGS = ("ring", "star", "moon", "cross", "corner", "wave")
STUFF = ("stripes", "checker", "clouds", "ripples")

_OBJECTS = (2, 4)  # fewest and most tried per scene
_DIAMETER = (0.36, 0.6)  # of the picture's side
_ASPECT = (0.8, 1.0)  # shorter over longer axis, before the rotation
_NEIGHBOUR = 0.05  # chance that an object is put next to one that is already there
_TRIES = 12  # placements per object before it is given up
_MIN_VISIBLE = 0.75  # of an object's area
_MAX_FILL = 0.6  # below this, of the box around its visible part
_SUPERSAMPLING = 4
_MARGIN = 4  # pixels around an object that its shadow may take


class Scene(NamedTuple):
    """One picture and what is in it, objects from back to front.

    image: uint8 `[S, S, 3]`. labels: int32 `[G]`, index into `THINGS`. masks: bool `[G, S, S]`,
    visible pixels, disjoint. occlusion: float32 `[G]`, hidden share of each object's own area.
    semantic: uint8 `[S, S]`, the visible thing's label, or `len(THINGS)` + index into `STUFF`.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    occlusion: np.ndarray
    semantic: np.ndarray


def draw_scene(size, rng):
    """The `Scene` of `size` x `size` pixels that the generator `rng` describes."""
    light = rng.uniform(0, 2 * math.pi)
    image, semantic = _ground(size, rng)
    labels, layers, visible = _arrange(size, rng)
    image = np.pad(image, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), mode="edge")
    for (coverage, (top, left)), mask, label in zip(layers, visible, labels, strict=True):
        height, width = coverage.shape
        window = np.s_[top : top + height + 2 * _MARGIN, left : left + width + 2 * _MARGIN]
        image[window] = patterns.paint(image[window], np.pad(coverage, _MARGIN), light, rng)
        semantic[mask] = label
    image = image[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    areas = np.array([np.count_nonzero(coverage >= 0.5) for coverage, _ in layers])
    seen = visible.sum(axis=(1, 2))
    return Scene(
        image=np.floor(image + 0.5).clip(0, 255).astype(np.uint8),
        labels=np.asarray(labels, np.int32),
        masks=visible,
        occlusion=(1 - seen / areas).astype(np.float32),
        semantic=semantic,
    )


def tight_box(mask):
    """(x0, y0, x1, y1) around a bool `[H, W]` mask that is not empty, pixel edges."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def _ground(size, rng):
    """Background float32 `[S, S, 3]` and semantic uint8 `[S, S]`: two or three patterned fields."""
    kinds = rng.permutation(len(STUFF))[: rng.integers(2, 4)]
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle, bend, phase = rng.uniform(0, 2 * math.pi), rng.uniform(0.03, 0.1), rng.uniform(0, 6)
    along, across = patterns.rotate(x, y, angle)
    height = across + bend * np.sin(7 * along + phase)
    edges = np.sort(rng.uniform(-0.4, 0.4, len(kinds) - 1))
    field = np.searchsorted(edges, height)
    image = np.empty((size, size, 3), np.float32)
    for number, kind in enumerate(kinds):
        here = field == number
        image[here] = patterns.ground_colours(patterns.GROUND[STUFF[kind]](size, rng)[here], rng)
    return image, (len(THINGS) + kinds[field]).astype(np.uint8)


def _arrange(size, rng):
    """Labels, layers ((coverage, (top, left)) each) and visible masks, from back to front."""
    labels, layers, areas = [], [], []
    visible = np.zeros((0, size, size), bool)
    for _ in range(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1)):
        label = int(rng.integers(len(THINGS)))
        coverage = _coverage(THINGS[label], size * rng.uniform(*_DIAMETER), rng)
        corner, masks = _place(coverage, layers, visible, areas, rng)
        if corner is not None:
            labels.append(label)
            layers.append((coverage, corner))
            areas.append(np.count_nonzero(coverage >= 0.5))
            visible = masks
    return labels, layers, visible


def _place(coverage, layers, visible, areas, rng):
    """Corner (top, left) where the shape may lie, and all visible masks then; None if none fits."""
    size = visible.shape[-1]
    shape = np.array(coverage.shape)
    room = size - shape
    solid = coverage >= 0.5
    if (room < 0).any() or np.count_nonzero(solid) >= _MAX_FILL * solid.size:
        return None, visible
    for _ in range(_TRIES):
        corner = rng.integers(0, room + 1)
        if layers and rng.random() < _NEIGHBOUR:
            other, position = layers[rng.integers(len(layers))]
            direction = rng.uniform(0, 2 * math.pi)
            reach = rng.uniform(0.35, 0.75) * (np.array(other.shape) + shape) / 2
            middle = np.array(position) + np.array(other.shape) / 2
            middle = middle + reach * (math.sin(direction), math.cos(direction))
            corner = np.clip(np.rint(middle - shape / 2).astype(int), 0, room)
        top, left = int(corner[0]), int(corner[1])
        masks = np.concatenate([visible, np.zeros((1, size, size), bool)])
        masks[:, top : top + shape[0], left : left + shape[1]] &= ~solid
        masks[-1, top : top + shape[0], left : left + shape[1]] = solid
        if all(map(_is_fair, masks[:-1], areas)):
            return (top, left), masks
    return None, visible


def _is_fair(mask, area):
    """Whether enough of an object is seen, and fills its box so little that its border matters."""
    seen = np.count_nonzero(mask)
    if seen < _MIN_VISIBLE * area:
        return False
    x0, y0, x1, y1 = tight_box(mask)
    return seen < _MAX_FILL * (x1 - x0) * (y1 - y0)


def _coverage(name, diameter, rng):
    """The shape, turned and squeezed at random: float64 `[h, w]` in [0, 1], tightly cropped."""
    angle, aspect = rng.uniform(0, 2 * math.pi), rng.uniform(*_ASPECT)
    loops = []
    for points, ink in _OUTLINES[name](rng):
        along, across = patterns.rotate(points[:, 0], points[:, 1] * aspect, angle)
        loops.append((np.stack([along, across], axis=1) * diameter / 2, ink))
    low = np.floor(loops[0][0].min(axis=0)) - 1
    width, height = (np.ceil(loops[0][0].max(axis=0)) + 1 - low).astype(int)
    drawing = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    pen = ImageDraw.Draw(drawing)
    for points, ink in loops:
        pen.polygon([tuple(p) for p in ((points - low) * _SUPERSAMPLING).tolist()], fill=255 * ink)
    coverage = np.asarray(drawing.reduce(_SUPERSAMPLING)) / 255.0
    x0, y0, x1, y1 = tight_box(coverage >= 0.5)
    return coverage[y0:y1, x0:x1]


def _circle(radius=1.0, centre=0.0):
    turn = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    return np.stack([centre + radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _ring(rng):
    return [(_circle(), 1), (_circle(rng.uniform(0.52, 0.6)), 0)]


def _star(rng):
    turn = np.arange(10) * math.pi / 5
    radii = np.where(np.arange(10) % 2, rng.uniform(0.5, 0.58), 1.1)
    return [(np.stack([radii * np.cos(turn), radii * np.sin(turn)], axis=1), 1)]


def _moon(rng):
    offset = rng.uniform(0.42, 0.52)
    return [(_circle(1.05), 1), (_circle(0.8, offset), 0)]


def _cross(rng):
    arm, half = 1.1, rng.uniform(0.22, 0.26)
    quarter = np.array([(half, half), (half, arm), (-half, arm)])
    turned = np.stack([-quarter[:, 1], quarter[:, 0]], axis=1)
    return [(np.concatenate([quarter, turned, -quarter, -turned]), 1)]


def _corner(rng):
    width = rng.uniform(0.46, 0.56)
    x0, y0, x1, y1 = -0.8, -0.95, 0.8, 0.95
    points = [(x0, y0), (x0 + width, y0), (x0 + width, y1 - width), (x1, y1 - width), (x1, y1)]
    return [(np.array([*points, (x0, y1)]), 1)]


def _wave(rng):
    turn = np.linspace(-1, 1, 40)
    swing, half = rng.uniform(0.45, 0.55), rng.uniform(0.23, 0.27)
    centre = np.stack([turn, swing * np.sin(1.5 * math.pi * turn)], axis=1)
    slope = 1.5 * math.pi * swing * np.cos(1.5 * math.pi * turn)
    normal = np.stack([-slope, np.ones_like(slope)], axis=1)
    normal *= half / np.linalg.norm(normal, axis=1, keepdims=True)
    return [(np.concatenate([centre + normal, (centre - normal)[::-1]]), 1)]


_OUTLINES = {
    "ring": _ring,
    "star": _star,
    "moon": _moon,
    "cross": _cross,
    "corner": _corner,
    "wave": _wave,
}
