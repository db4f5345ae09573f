"""Colours, patterns and light of the procedural scenes. Pattern values lie in [0, 1]."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageFilter

_SHADOW = 0.35  # darkness of the shadow that an object throws
_SHADOW_OFFSET = 2  # pixels
_BEVEL = 2.2  # strength of the light on rounded edges


def paint(window, coverage, light, rng):
    """The window with one object, its shadow and its shading in front.

    Args:
        window: float32 `[h, w, 3]`, grey levels 0..255.
        coverage: float64 `[h, w]` in [0, 1], how much of each pixel the object covers.
        light: where the light comes from, radians.
    Returns:
        float64 `[h, w, 3]`.
    """
    soft = _blur(coverage, 1.5)
    shift = np.rint(_SHADOW_OFFSET * -np.array([math.sin(light), math.cos(light)])).astype(int)
    shadow = np.roll(_blur(coverage, 2.0), tuple(shift), axis=(0, 1))
    slope_y, slope_x = np.gradient(soft)
    relief = -(math.cos(light) * slope_x + math.sin(light) * slope_y)
    shading = 1 + _BEVEL * relief
    surface = _surface(coverage.shape, rng) * shading[..., None]
    ground = window * (1 - _SHADOW * shadow)[..., None]
    opacity = coverage[..., None]
    return ground * (1 - opacity) + surface.clip(0, 255) * opacity


def ground_colours(pattern, rng):
    """Two muted colours mixed by `pattern` `[...]`: float64 `[..., 3]`, grey levels."""
    value = rng.uniform(0.35, 0.75)
    hue, saturation = rng.random(), rng.uniform(0.05, 0.25)
    dark = _rgb(hue, saturation, value - 0.1)
    bright = _rgb(hue + rng.uniform(-0.08, 0.08), saturation, value + 0.15)
    return _mix(pattern, dark, bright)


def rotate(x, y, angle):
    """Coordinates (along, across) of points (x, y) in axes turned by `angle` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _surface(shape, rng):
    """An object's own colour and pattern, float64 `[h, w, 3]`, grey levels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    along, across = rotate(x, y, rng.uniform(0, math.pi))
    period = rng.uniform(6, 12)
    kind = rng.integers(4)
    if kind == 0:
        pattern = 0.5 + 0.5 * np.sin(along * (2 * math.pi / period))
    elif kind == 1:
        dots = np.sin(along * (2 * math.pi / period)) * np.sin(across * (2 * math.pi / period))
        pattern = (dots > 0.35).astype(float)
    elif kind == 2:
        pattern = rng.random(shape)
    else:
        pattern = (along - along.min()) / np.ptp(along)
    hue, saturation, value = rng.random(), rng.uniform(0.7, 1.0), rng.uniform(0.8, 1.0)
    base = _rgb(hue, saturation, value)
    accent = _rgb(hue + rng.uniform(-0.1, 0.1), saturation * 0.8, value * rng.uniform(0.75, 0.9))
    return _mix(pattern, base, accent)


def _stripes(size, rng):
    along, _ = _turned_grid(size, rng)
    return (np.sin(along * (2 * math.pi / (size * rng.uniform(0.06, 0.1)))) > 0).astype(float)


def _checker(size, rng):
    along, across = _turned_grid(size, rng)
    period = size * rng.uniform(0.09, 0.15)
    cells = np.floor(along / period) + np.floor(across / period)
    return np.mod(cells, 2)


def _clouds(size, rng):
    noise = sum(
        weight * _smooth_noise(size, cells, rng)
        for cells, weight in ((4, 0.5), (9, 0.3), (24, 0.2))
    )
    return (noise - noise.min()) / np.ptp(noise)


def _ripples(size, rng):
    y, x = np.mgrid[:size, :size]
    centre = rng.uniform(-0.2, 1.2, 2) * size
    distance = np.hypot(y - centre[0], x - centre[1])
    return 0.5 + 0.5 * np.sin(distance * (2 * math.pi / (size * rng.uniform(0.05, 0.09))))


def _turned_grid(size, rng):
    y, x = np.mgrid[:size, :size]
    return rotate(x, y, rng.uniform(0, math.pi))


def _smooth_noise(size, cells, rng):
    coarse = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float64)


def _blur(coverage, radius):
    drawing = Image.fromarray(np.rint(255 * coverage).astype(np.uint8))
    return np.asarray(drawing.filter(ImageFilter.GaussianBlur(radius))) / 255.0


def _mix(pattern, first, second):
    return first + pattern[..., None] * (second - first)


def _rgb(hue, saturation, value):
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


GROUND = {"stripes": _stripes, "checker": _checker, "clouds": _clouds, "ripples": _ripples}
