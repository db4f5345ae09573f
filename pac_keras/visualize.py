"""Pictures of masks, for detections and ground truth alike."""

import colorsys
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from pac_keras.detections.paste import instances, picture, truth_as_detections

_GOLDEN = 0.61803398875  # steps of this share of the hue circle keep neighbours apart
_RIM = (16, 16, 16)  # RGB of the thin dark line around an outline, so that it shows on any ground


def draw(image, found, *, boxes=False, labels=True, scores=True, alpha=0.4, min_side=480):
    """PIL image (RGB): `image` with the objects in `found` on top.

    Each object has its own colour: a light fill, a full outline with a dark rim, and a label where
    there is room for one. Large objects are drawn first.

    Args:
        image: uint8 `[H, W, 3]` or a PIL image, upright.
        found: `Instances` of that picture.
        boxes, labels, scores: whether to draw boxes, names, and the scores behind the names
            (leave the scores out for ground truth).
        alpha: share of the colour in the fill, in [0, 1].
        min_side: a smaller picture is enlarged by a whole factor until its short side has about
            that many pixels, for the labels' sake; 0 = never.
    Raises:
        ValueError: the picture's size is not that of the instances.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.shape[:2] != tuple(found.size):
        raise ValueError(f"the picture is {pixels.shape[:2]}, the instances are for {found.size}")
    factor = max(1, round(min_side / min(found.size)))
    canvas = pixels.repeat(factor, 0).repeat(factor, 1)
    thickness = max(1, round(min(canvas.shape[:2]) / 300))
    areas = [coco_mask.area(segmentation) for segmentation in found.segmentations]
    for index in np.argsort(areas, kind="stable")[::-1]:
        mask = found.mask(index).repeat(factor, 0).repeat(factor, 1)
        _paint(canvas, mask, color(index), alpha, thickness)
    result = Image.fromarray(canvas)
    pen = ImageDraw.Draw(result)
    if boxes:
        for index, box in enumerate(found.boxes):
            start, end = box[:2] * factor, box[2:] * factor - 1
            corners = (*start, *np.maximum(start, end))  # a box may be narrower than a pixel
            pen.rectangle(corners, outline=color(index), width=thickness)
    if labels:
        texts = [
            f"{name} {score:.2f}" if scores else name
            for name, score in zip(found.names, found.scores, strict=True)
        ]
        _write_labels(pen, result.size, found.boxes * factor, texts)
    return result


def truth_instances(batch, index, categories):
    """`Instances` of the ground truth of picture `index` of a `Batch`, in network pixels.

    What they show went through loading, augmentation, padding and mask frames; the picture to draw
    them on is `restored_picture` of the same batch.
    """
    size = tuple(int(side) for side in np.asarray(batch.images.sizes)[index])
    detections = picture(truth_as_detections(batch.ground_truth), index)
    return instances(detections, (1.0, 1.0), size, categories=categories)


def restored_picture(batch, index, preprocessing):
    """uint8 `[h, w, 3]`: the picture in a `Batch` without padding and normalisation."""
    height, width = np.asarray(batch.images.sizes)[index]
    pixels = np.asarray(batch.images.pixels, "float32")[index, :height, :width]
    pixels = pixels * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean)
    return np.clip(np.rint(pixels), 0, 255).astype("uint8")


def contact_sheet(images, columns=4, *, margin=6):
    """PIL image: `images` (PIL or uint8 arrays) in rows of `columns` on white.

    Each cell is as wide and high as the largest picture; smaller ones are scaled up to fit.
    Raises ValueError without a picture.
    """
    images = [Image.fromarray(np.asarray(image)).convert("RGB") for image in images]
    if not images or columns < 1:
        raise ValueError(f"expected pictures and columns >= 1, got {len(images)} and {columns}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    size = (columns * (width + margin) + margin, rows * (height + margin) + margin)
    sheet = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        scale = min(width / image.width, height / image.height)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        left = margin + column * (width + margin) + (width - image.width) // 2
        top = margin + row * (height + margin) + (height - image.height) // 2
        sheet.paste(image, (left, top))
    return sheet


def color(index):
    """RGB of object `index`: hues far from those of the objects before it, three brightnesses."""
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.75))[(index // 3) % 3]
    rgb = colorsys.hsv_to_rgb((0.02 + index * _GOLDEN) % 1.0, saturation, value)
    return tuple(round(255 * channel) for channel in rgb)


def _paint(canvas, mask, rgb, alpha, thickness):
    """Fills `mask` in `canvas` (changed in place), with an outline inside and a rim outside."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    window = slice(top, rows[-1] + 2), slice(left, columns[-1] + 2)
    mask, part = mask[window], canvas[window]
    inner = mask
    for _ in range(thickness):
        inner = _eroded(inner)
    rim = ~_eroded(~mask) & ~mask
    part[mask] = ((1 - alpha) * part[mask] + alpha * np.asarray(rgb)).astype("uint8")
    part[mask & ~inner] = rgb
    part[rim] = _RIM


def _eroded(mask):
    """`mask` without the pixels that touch its outside; the picture's edge is no outside."""
    padded = np.pad(mask, 1, mode="edge")
    rows = padded[:-2] & padded[1:-1] & padded[2:]
    return rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]


def _write_labels(pen, size, boxes, texts):
    """Labels near their boxes, best object first, where they hide no label and little else.

    A label that finds no free place is left out: over another, neither could be read.
    """
    font = _font(int(np.clip(min(size) / 36, 12, 40)))
    pad = max(2, font.size // 6)
    line = font.size + 2 * pad
    taken = np.zeros((0, 4))
    for index, (box, text) in enumerate(zip(boxes, texts, strict=True)):
        extent = pen.textlength(text, font=font) + 2 * pad
        areas = _label_places(box, extent, line, size)
        areas = areas[_overlaps(areas, taken).sum(1) == 0]
        if not len(areas):
            continue
        # Small objects would vanish below a label; on large ones it does not matter.
        small = boxes[(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) < 4 * extent * line]
        x0, y0, x1, y1 = areas[np.argmin(_overlaps(areas, small).sum(1))]
        taken = np.concatenate([taken, [(x0, y0, x1, y1)]])
        background = color(index)
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=background)
        dark = np.dot(background, (0.299, 0.587, 0.114)) < 110
        place = (x0 + pad, y0 + line / 2)
        pen.text(place, text, fill="white" if dark else "black", font=font, anchor="lm")


def _label_places(box, extent, line, size):
    """float `[P, 4]`: where a label may stand, the best place first, all inside the picture."""
    x0, y0, x1, y1 = (float(edge) for edge in box)
    corners = [(x0, y0 - line), (x0, y0), (x1 - extent, y0 - line), (x0, y1), (x0, y1 - line)]
    corners += [(x1, y0), (x0 - extent, y0), (x1, y1 - line), (x0 - extent, y1 - line)]
    corners += [
        ((x0 + x1 - extent) / 2, y) for y in ((y0 + y1 - line) / 2, y0 - 2 * line, y1 + line)
    ]
    most = np.maximum([size[0] - extent, size[1] - line], 0)
    corners = np.clip(np.rint(corners), 0, np.floor(most))
    return np.concatenate([corners, corners + np.asarray([extent, line])], axis=1)


def _overlaps(areas, others):
    """float `[A, O]`: common area of each pair of boxes."""
    low = np.maximum(areas[:, None, :2], others[None, :, :2])
    high = np.minimum(areas[:, None, 2:], others[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=-1)


@lru_cache
def _font(size):
    """matplotlib's DejaVu Sans: it is there on every machine and has many scripts."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size)
