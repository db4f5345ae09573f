"""Objects drawn as small bitmaps: each on the grid of its own frame, at network scale."""

import functools

import numpy as np
from pycocotools import mask as mask_utils

from pac_keras.data.sample import Segmentation

MARGIN, MARGIN_PIXELS = 0.05, 1.0  # a frame is the object's box, larger by this on each side
NO_LIMITS = (-np.inf, -np.inf, np.inf, np.inf)  # of `visible_limits`
_WHOLE_WITHIN = 0.5  # network pixels: a picture that lacks no more of a side is whole


def rasterise(segmentation, transform, frame, grid):
    """uint8 `grid`: 1 where a cell's centre is inside the object.

    Args:
        segmentation: in stored pixels.
        transform: float `[2, 2]`, see `sample.Sample`: stored to network pixels.
        frame: (x0, y0, x1, y1) that the grid covers, network pixels.
        grid: (rows, columns).
    """
    (scale_x, offset_x), (scale_y, offset_y) = np.asarray(transform, "float64")
    x0, y0, x1, y1 = np.asarray(frame, "float64")
    rows, columns = grid
    if segmentation.polygons:
        to_grid = np.asarray([columns / (x1 - x0), rows / (y1 - y0)])
        scale = to_grid * (scale_x, scale_y)
        offset = to_grid * (offset_x - x0, offset_y - y0)
        polygons = tuple(polygon * scale + offset for polygon in segmentation.polygons)
        return mask_utils.decode(run_lengths(Segmentation(polygons), grid))
    bitmap, left, top = _crop(*segmentation.rle["size"], segmentation.rle["counts"])
    x = (x0 + (np.arange(columns) + 0.5) * (x1 - x0) / columns - offset_x) / scale_x
    y = (y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows - offset_y) / scale_y
    y, x = np.floor(y).astype("int64") - top, np.floor(x).astype("int64") - left
    return _look_up(bitmap, y, x)


def object_frames(boxes, segmentations, transform, limits=NO_LIMITS):
    """float32 `[G, 4]`: boxes that hold each object whole, with a margin, network pixels.

    The json's box may be smaller than the shape that it belongs to; the frame covers both. What is
    beyond `limits` (see `visible_limits`) is left out, so that objects end where a crop cuts them.
    """
    frames = np.asarray(boxes, "float32").reshape(-1, 4).copy()
    scale, offset = np.asarray(transform)[:, :1], np.asarray(transform)[:, 1:]
    for frame, segmentation in zip(frames, segmentations, strict=True):
        low, high = _extent(segmentation)
        edges = scale * np.stack([low, high], axis=1) + offset
        frame[:2] = np.minimum(frame[:2], edges.min(axis=1))
        frame[2:] = np.maximum(frame[2:], edges.max(axis=1))
    low, high = np.tile(np.asarray(limits, "float32").reshape(2, 2), 2)
    frames = np.clip(frames, low, high)
    margin = MARGIN * (frames[:, 2:] - frames[:, :2]) + MARGIN_PIXELS
    frames = np.concatenate([frames[:, :2] - margin, frames[:, 2:] + margin], axis=1)
    return np.clip(frames, low, high)


def visible_limits(sample):
    """float64 `[4]`, xyxy in network pixels: where a crop cut the stored picture.

    Infinite on sides where the picture is whole: there objects are drawn as the json has them.
    """
    height, width = sample.image.shape[:2]
    low, high = _stored_edges(sample)
    return np.where(
        [*(low < -_WHOLE_WITHIN), *(high > np.add((width, height), _WHOLE_WITHIN))],
        (0.0, 0.0, width, height),
        NO_LIMITS,
    )


def semantic_cells(sample, canvas, num_classes):
    """uint8 `[H/8, W/8]`, the semantic target of a sample whose source has no map.

    Each cell has the class at its first pixel: the object's class, smaller objects over larger
    ones, background = `num_classes`, 255 on crowd and outside the stored picture.
    """
    cells = canvas[0] // 8, canvas[1] // 8
    frame = (-3.5, -3.5, 8 * cells[1] - 3.5, 8 * cells[0] - 3.5)  # cell centres on first pixels'
    semantic = np.full(cells, num_classes, "uint8")
    width, height = (sample.boxes[:, 2:] - sample.boxes[:, :2]).T
    order = sorted(range(len(sample.labels)), key=lambda row: -width[row] * height[row])
    for row in sorted(order, key=lambda row: sample.labels[row] >= 0):  # crowd first, below all
        inside = rasterise(sample.segmentations[row], sample.transform, frame, cells)
        label = sample.labels[row]
        semantic[inside.astype(bool)] = label if label >= 0 else 255
    low, high = _stored_edges(sample)
    high = np.minimum(high, sample.image.shape[1::-1])
    x, y = (8 * np.arange(count) + 0.5 for count in cells[::-1])
    semantic[(y < low[1]) | (y > high[1])] = 255
    semantic[:, (x < low[0]) | (x > high[0])] = 255
    return semantic


def run_lengths(segmentation, size):
    """pycocotools' compressed run lengths of a `Segmentation` on a grid `size` (height, width).

    Polygons are in grid coordinates; cell (row, column) is drawn where its centre
    (column + 0.5, row + 0.5) is inside.
    """
    if not segmentation.polygons:
        return segmentation.rle
    rows = [polygon.ravel().tolist() for polygon in segmentation.polygons]
    return mask_utils.merge(mask_utils.frPyObjects(rows, *size))


@functools.lru_cache(maxsize=512)  # each shape is drawn into its frame and into the semantic map
def _crop(height, width, counts):
    """uint8 bitmap of run lengths, cut to what is set, and the left and top pixel of the cut."""
    rle = {"size": [height, width], "counts": counts}
    left, top, columns, rows = (int(side) for side in mask_utils.toBbox(rle))
    return mask_utils.decode(rle)[top : top + rows, left : left + columns].copy(), left, top


def _look_up(bitmap, rows, columns):
    """uint8 `[len(rows), len(columns)]` of a bitmap; 0 outside it. Indices are monotonic."""
    inside_y = np.flatnonzero((rows >= 0) & (rows < bitmap.shape[0]))
    inside_x = np.flatnonzero((columns >= 0) & (columns < bitmap.shape[1]))
    values = np.zeros((len(rows), len(columns)), "uint8")
    if len(inside_y) and len(inside_x):
        y, x = slice(inside_y[0], inside_y[-1] + 1), slice(inside_x[0], inside_x[-1] + 1)
        values[y, x] = bitmap.take(rows[y], axis=0).take(columns[x], axis=1)
    return values


def _stored_edges(sample):
    """((x, y) lowest, (x, y) highest) of the stored picture, network pixels."""
    edges = sample.transform[:, :1] * [[0, side] for side in sample.size[::-1]]
    edges = edges + sample.transform[:, 1:]
    return edges.min(axis=1), edges.max(axis=1)


def _extent(segmentation):
    """((x, y) lowest, (x, y) highest) corner of a segmentation, stored pixels."""
    if segmentation.polygons:
        points = np.concatenate(segmentation.polygons)
        return points.min(axis=0), points.max(axis=0)
    x, y, width, height = mask_utils.toBbox(segmentation.rle)
    return np.asarray([x, y]), np.asarray([x + width, y + height])
