"""Masks as frames: a small grid and the box that it covers, instead of a bitmap of the picture.

All sampling is separable: weights along y times frame times weights along x. Cell (i, j) of a frame
`[fh, fw]` over the box (x0, y0, x1, y1) has its centre at x0 + (j + 0.5) (x1 - x0) / fw.
"""

from keras import ops

from pac_keras.boxes import clip_boxes

MAX_TARGET_SAMPLES = 64  # per cell of a target and axis: exact up to regions of 28 * 64 pixels


def roi_targets(frames, mask_frames, boxes, sizes, grid):
    """What a mask head should answer in each region: 1 where the object is, else 0.

    The object is averaged over each cell by ceil(cell size in pixels) samples per axis and taken
    at one half, as RoIAlign of a bitmap of the network's input would be.

    Args:
        frames: uint8 `[B, R, fh, fw]`, the object of each region.
        mask_frames: float32 `[B, R, 4]`, the box that each frame covers.
        boxes: float32 `[B, R, 4]`, the regions; clipped to the picture.
        sizes: `[B, 2]`, (height, width) of the pictures.
        grid: g, cells per side of the target.

    Returns:
        float32 `[B, R, g, g]`, 0 or 1. Empty regions give zeros.

    Source: mmdetection's bitmap targets (RoIAlign, threshold 0.5).
    """
    soft = roi_means(frames, mask_frames, boxes, sizes, grid)
    return ops.cast(soft >= 0.5 - _TIE, "float32")


_TIE = 1e-5  # exact halves must not fall to rounding


def roi_means(frames, mask_frames, boxes, sizes, grid):
    """The same before the threshold: the object's share of each cell, float32 `[B, R, g, g]`."""
    boxes = clip_boxes(boxes, sizes)
    height, width = frames.shape[-2:]
    rows = _mean_weights(boxes[..., 1::2], mask_frames[..., 1::2], grid, height)
    columns = _mean_weights(boxes[..., 0::2], mask_frames[..., 0::2], grid, width)
    return ops.matmul(rows, ops.matmul(ops.cast(frames, "float32"), _swap(columns)))


def _mean_weights(sides, frame_sides, cells, length):
    """Weights `[B, R, cells, length]` that average a frame's axis over each cell of a region.

    `sides`, `frame_sides` `[B, R, 2]`: (start, end) of the region and of the frame in pixels.
    """
    start, end = sides[..., :1], sides[..., 1:]  # [B, R, 1]
    frame_start, frame_end = frame_sides[..., :1], frame_sides[..., 1:]
    per_pixel = length / ops.maximum(frame_end - frame_start, 1e-6)
    samples = ops.ceil((end - start) / cells)  # an empty region has none
    count = ops.clip(samples, 1.0, MAX_TARGET_SAMPLES)
    cell = ops.arange(cells, dtype="float32")
    position = ops.arange(length, dtype="float32")

    def add(sample, total):
        sample = ops.cast(sample, "float32")
        place = start + (cell + (sample + 0.5) / count) * (end - start) / cells  # [B, R, cells]
        place = (place - frame_start) * per_pixel - 0.5
        inside = (place >= -1.0) & (place <= length) & (sample < samples)
        place = ops.clip(place, 0.0, length - 1.0)
        hat = ops.maximum(1.0 - ops.abs(place[..., None] - position), 0.0)
        return total + hat * ops.cast(inside, "float32")[..., None]

    most = ops.cast(ops.max(count), "int32")
    total = ops.zeros((*ops.shape(start)[:2], cells, length))
    _, total = ops.while_loop(
        lambda sample, _: sample < most,
        lambda sample, total: (sample + 1, add(sample, total)),
        (ops.zeros((), "int32"), total),
    )
    return ops.stop_gradient(total / count[..., None])


def share_inside(frames, mask_frames, boxes):
    """Share of each object's area that lies inside its region, float32 `[B, R]` in [0, 1].

    The region is cut to whole pixels towards zero and is at least one pixel wide, as in
    mmdetection. Empty frames give 0.

    Args:
        frames: uint8 `[B, R, fh, fw]`.
        mask_frames, boxes: float32 `[B, R, 4]`.
    """
    height, width = frames.shape[-2:]
    frames = ops.cast(frames, "float32")
    rows = _centres_inside(boxes[..., 1::2], mask_frames[..., 1::2], height)
    columns = _centres_inside(boxes[..., 0::2], mask_frames[..., 0::2], width)
    inside = ops.sum(frames * rows[..., :, None] * columns[..., None, :], axis=(-2, -1))
    return inside / ops.maximum(ops.sum(frames, axis=(-2, -1)), 1.0)


def _centres_inside(sides, frame_sides, length):
    """1 for each cell of a frame's axis whose centre lies in the region: `[B, R, length]`."""
    start = ops.floor(ops.maximum(sides[..., :1], 0.0))
    end = ops.maximum(ops.floor(sides[..., 1:]), start + 1.0)
    position = ops.arange(length, dtype="float32") + 0.5
    centre = (
        frame_sides[..., :1] + position * (frame_sides[..., 1:] - frame_sides[..., :1]) / length
    )
    return ops.cast((centre >= start) & (centre < end), "float32")


def paste(masks, mask_frames, height, width):
    """Masks drawn into pictures, probability at each pixel's centre, zero outside their frames.

    Args:
        masks: float32 `[B, D, h, w]`.
        mask_frames: float32 `[B, D, 4]` in pixels of the picture to draw into.
        height, width: of that picture; numbers or scalar tensors.

    Returns:
        float32 `[B, D, height, width]`. A frame without area gives zeros.

    Source: Mask R-CNN's public implementations (bilinear, half-pixel centres, zeros outside).
    """
    rows = _paste_weights(mask_frames[..., 1::2], masks.shape[-2], height)
    columns = _paste_weights(mask_frames[..., 0::2], masks.shape[-1], width)
    return ops.matmul(rows, ops.matmul(masks, _swap(columns)))


def _paste_weights(frame_sides, length, pixels):
    """Interpolation weights `[B, D, pixels, length]`; samples off the grid fade to zero."""
    start, end = frame_sides[..., :1], frame_sides[..., 1:]
    centre = ops.cast(ops.arange(pixels), "float32") + 0.5
    place = (centre - start) / ops.maximum(end - start, 1e-6) * length - 0.5
    hat = ops.maximum(1.0 - ops.abs(place[..., None] - ops.arange(length, dtype="float32")), 0.0)
    return hat * ops.cast(end > start, "float32")[..., None]


def inside_frames(frames, height, width):
    """1 for cells whose middle is inside: frames `[..., 4]` in cells -> float32 `[..., H, W]`."""
    x0, y0, x1, y1 = ops.split(frames, 4, axis=-1)  # [..., 1]
    x = ops.cast(ops.arange(width), "float32") + 0.5
    y = ops.cast(ops.arange(height), "float32") + 0.5
    columns = ops.cast((x >= x0) & (x < x1), "float32")
    rows = ops.cast((y >= y0) & (y < y1), "float32")
    return rows[..., :, None] * columns[..., None, :]


def middle_pixels(masks, mask_frames, height, width, stride):
    """Which of the four middle pixels of a cell lie in each mask: yields four bool `[B, G, h, w]`.

    Args:
        masks: float32 `[B, G, fh, fw]`.
        mask_frames: float32 `[B, G, 4]`, pixels.
        height, width: h and w, cells.
        stride: pixels per cell, even.
    """
    for y in (-0.5, 0.5):
        for x in (-0.5, 0.5):
            frames = (mask_frames + ops.convert_to_tensor((x, y, x, y))) / stride
            yield paste(masks, frames, height, width) >= 0.5


def boundary(masks, width):
    """Where masks have their border: 1 on cells in whose surroundings enough cells are different.

    The surroundings are the (2 width + 1)^2 cells around a cell; more than a tenth of them must
    differ from it. Outside the grid is background, so that a mask ends at the grid's edge.

    Args:
        masks: float32 `[N, h, w]`, 0 or 1.
        width: cells, at least 1.

    Returns:
        float32 `[N, h, w]`, 0 or 1.

    Source: RefineMask's public code (the text says "any differing cell").
    """
    side = 2 * width + 1
    padded = ops.pad(masks[..., None], ((0, 0), (width, width), (width, width), (0, 0)))
    share = ops.average_pool(padded, side, strides=1)[..., 0]
    return ops.cast(ops.abs(masks - share) > 0.1, "float32")


def mask_iou(first, second):
    """IoU of masks row by row: 0/1 float32 `[..., h, w]` twice -> `[...]`; 0 for two empty ones."""
    shared = ops.sum(first * second, axis=(-2, -1))
    union = ops.sum(ops.maximum(first, second), axis=(-2, -1))
    return shared / ops.maximum(union, 1.0)


def _swap(x):
    return ops.swapaxes(x, -1, -2)
