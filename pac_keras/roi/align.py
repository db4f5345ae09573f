"""RoIAlign: features of boxes, cut out of the maps of a pyramid.

Source: He et al. 2017 with the half-pixel correction (`aligned=True` in torchvision).
"""

from typing import NamedTuple

import keras
from keras import ops

from pac_keras.kernels import use_tensorflow_kernels
from pac_keras.structures import Tensor

_FAR = 1e6  # pixels; farther boxes have no pixel of a picture
MAX_ADAPTIVE_SAMPLES = 16  # per bin and axis, where the number of samples has to be static


def roi_align(maps, strides, boxes, levels, size, sampling_ratio=2, aligned=True):
    """Features in a grid of bins inside each box.

    Each bin is the mean of bilinear samples. A sample more than one cell outside its map counts
    as zero; less than one cell outside, it takes the border's value.

    Args:
        maps: list of `[B, H_l, W_l, C]`.
        strides: list of numbers, pixels per cell of each map.
        boxes: float32 `[B, R, 4]` in pixels.
        levels: int32 `[B, R]`, which map serves each box.
        size: bins per side, a number or (vertical, horizontal).
        sampling_ratio: samples per bin and axis. 0 takes ceil(bin size in cells), per box and axis,
            as the weights of mmdetection expect: exact on TensorFlow; elsewhere at most
            `MAX_ADAPTIVE_SAMPLES`.
        aligned: cells have their centres at half numbers, as in pixels. False: at whole numbers,
            and no box is smaller than a cell, as torchvision's weights expect.

    Returns:
        `[B * R, height, width, C]` in the maps' dtype.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    grid = _bins(maps, strides, boxes, levels, size, sampling_ratio, aligned)
    if not use_tensorflow_kernels():
        return _align_ops(maps, boxes, levels, grid, size, sampling_ratio)
    if sampling_ratio == 0:
        return _align_sparse(maps, boxes, levels, grid, size)
    return _align_crops(maps, boxes, levels, grid, size, sampling_ratio)


class _Bins(NamedTuple):
    """Geometry of each box on its own map, in cells, float32 `[B, R, 2]` as (y, x)."""

    start: Tensor  # of the first bin; cell centres have whole coordinates
    bin: Tensor  # side of a bin
    samples: Tensor  # per bin and axis, whole numbers
    extent: Tensor  # (height, width) of the map


def _bins(maps, strides, boxes, levels, size, sampling_ratio, aligned):
    stride = ops.take(ops.convert_to_tensor(strides, "float32"), levels)[..., None]  # [B, R, 1]
    extents = [ops.cast(ops.stack(ops.shape(x)[1:3]), "float32") for x in maps]
    boxes = ops.stop_gradient(boxes)
    # A NaN would become an index outside the maps; the losses of such a box are NaN anyway.
    boxes = ops.where(ops.equal(boxes, boxes), ops.clip(boxes, -_FAR, _FAR), 0.0)
    x0, y0, x1, y1 = ops.unstack(boxes, 4, axis=-1)
    start = ops.stack([y0, x0], axis=-1) / stride - (0.5 if aligned else 0.0)
    side = ops.stack([y1 - y0, x1 - x0], axis=-1) / stride
    side = side if aligned else ops.maximum(side, 1.0)
    side = side / ops.convert_to_tensor(size, "float32")
    # An empty box has no adaptive sample, so its features are zero.
    samples = ops.full_like(side, float(sampling_ratio)) if sampling_ratio else ops.ceil(side)
    return _Bins(start, side, samples, ops.take(ops.stack(extents), levels, axis=0))


def _align_ops(maps, boxes, levels, grid, size, sampling_ratio):
    """`roi_align` with `keras.ops` alone: gathers the four cells around each sample, and adds."""
    batch, num_boxes = ops.shape(boxes)[0], ops.shape(boxes)[1]
    cells, first_cell, cells_per_picture = _flatten(maps)
    first = ops.take(first_cell, levels) + cells_per_picture * ops.arange(batch)[:, None]
    width = ops.cast(grid.extent[..., 1], "int32")
    samples = ops.minimum(grid.samples, float(sampling_ratio or MAX_ADAPTIVE_SAMPLES))
    most = sampling_ratio or _most(samples)

    def along(axis, sample):  # both cells that a sample touches: 2 x (index, weight) [B, R, bins]
        bins = ops.arange(size[axis], dtype="float32")
        count = ops.maximum(samples[..., axis], 1.0)
        place = (bins + (sample + 0.5) / count[..., None]) * grid.bin[..., axis, None]
        weight = ops.cast(sample < samples[..., axis], "float32") / count
        place = place + grid.start[..., axis, None]
        return _neighbours(place, grid.extent[..., axis, None], weight[..., None])

    def add(index, total):
        y_sample = ops.cast(index // most, "float32")
        x_sample = ops.cast(index % most, "float32")
        for row, row_weight in along(0, y_sample):
            for column, column_weight in along(1, x_sample):
                cell = row[..., :, None] * width[..., None, None] + column[..., None, :]
                cell = cell + first[..., None, None]
                weight = row_weight[..., :, None] * column_weight[..., None, :]
                picked = ops.take(cells, cell, axis=0)  # [B, R, height, width, C]
                total = total + picked * ops.cast(weight, cells.dtype)[..., None]
        return total

    total = ops.zeros((batch, num_boxes, *size, cells.shape[-1]), dtype=cells.dtype)
    if sampling_ratio:
        for index in range(most * most):
            total = add(index, total)
    else:
        total = _loop(most * most, add, total)
    return ops.reshape(total, (-1, *size, cells.shape[-1]))


def _most(samples):
    """The largest of `samples`, where a loop of that many turns has a gradient; else the cap."""
    if keras.backend.backend() != "tensorflow":
        return MAX_ADAPTIVE_SAMPLES
    return ops.cast(ops.max(samples), "int32")


def _loop(count, add, total):
    """`total` after `add(index, total)` for each index below `count`, an int or a scalar."""
    if isinstance(count, int):
        return ops.fori_loop(0, count, add, total)
    return ops.while_loop(
        lambda index, _: index < count,
        lambda index, total: (index + 1, add(index, total)),
        (0, total),
        maximum_iterations=MAX_ADAPTIVE_SAMPLES**2,  # XLA's gradient wants to know
    )[1]


def _flatten(maps):
    """Cells of all maps and pictures `[B * N, C]`, first cell of each map `[L]`, and N."""
    counts = [ops.shape(x)[1] * ops.shape(x)[2] for x in maps]
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    channels = maps[0].shape[-1]
    cells = ops.concatenate([ops.reshape(x, (ops.shape(x)[0], -1, channels)) for x in maps], axis=1)
    return ops.reshape(cells, (-1, channels)), ops.stack(starts[:-1]), starts[-1]


def _neighbours(place, extent, weight):
    """The cells around `place`: ((index int32, weight), (index, weight)); weight 0 far outside."""
    inside = ops.cast((place >= -1.0) & (place <= extent), "float32")
    place = ops.clip(place, 0.0, extent - 1.0)
    low = ops.floor(place)
    fraction = place - low
    high = ops.minimum(low + 1.0, extent - 1.0)
    weight = weight * inside
    return (
        (ops.cast(low, "int32"), weight * (1.0 - fraction)),
        (ops.cast(high, "int32"), weight * fraction),
    )


def _align_crops(maps, boxes, levels, grid, size, sampling_ratio):
    """`roi_align` by TensorFlow's crop_and_resize; its gradient by `_align_sparse`, its equal.

    The kernel's own gradient adds from several threads at once, and on CPUs loses summands.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def align(*maps):
        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch(maps)
                aligned = _align_sparse(maps, boxes, levels, grid, size)
            return tape.gradient(aligned, maps, upstream)

        return _crops(maps, levels, grid, size, sampling_ratio), gradient

    return align(*maps)


def _crops(maps, levels, grid, size, sampling_ratio):
    """crop_and_resize, map by map, and average pooling.

    A border of one repeated cell turns its rule (zero outside) into ours (zero beyond one cell).
    """
    import tensorflow as tf

    samples = [bins * sampling_ratio for bins in size]
    step = grid.bin / sampling_ratio
    low = grid.start + 1.0 + 0.5 * step  # the first sample on the padded map
    corners = tf.concat([low, low + (tf.cast(samples, tf.float32) - 1.0) * step], axis=-1)
    corners /= tf.tile(grid.extent + 1.0, (1, 1, 2))
    corners = tf.reshape(corners, (-1, 4))
    picture = tf.repeat(tf.range(tf.shape(levels)[0]), tf.shape(levels)[1])
    level = tf.reshape(levels, (-1,))
    rows, crops = [], []
    for index, features in enumerate(maps):
        chosen = tf.cast(tf.where(level == index)[:, 0], tf.int32)
        padded = tf.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="SYMMETRIC")
        crop = tf.image.crop_and_resize(
            tf.cast(padded, tf.float32),
            tf.gather(corners, chosen),
            tf.gather(picture, chosen),
            samples,
        )
        crops.append(tf.nn.avg_pool2d(crop, sampling_ratio, sampling_ratio, "VALID"))
        rows.append(chosen)
    return tf.cast(tf.dynamic_stitch(rows, crops), maps[0].dtype)


def _align_sparse(maps, boxes, levels, grid, size):
    """`roi_align` with as many samples as each box needs: one sparse matrix times all cells."""
    import tensorflow as tf

    cells, first_cell, cells_per_picture = _flatten(maps)
    batch = tf.shape(boxes)[0]
    first = tf.gather(first_cell, levels) + cells_per_picture * tf.range(batch)[:, None]
    flat = tf.nest.map_structure(lambda x: tf.reshape(x, (-1, 2)), grid)
    samples = tf.cast(flat.samples, tf.int32)
    height, width = size
    per_box = height * width * samples[:, 0] * samples[:, 1]
    box = tf.repeat(tf.range(tf.shape(per_box)[0]), per_box)
    index = tf.range(tf.shape(box)[0]) - tf.gather(tf.cumsum(per_box, exclusive=True), box)
    ny, nx = tf.gather(samples[:, 0], box), tf.gather(samples[:, 1], box)
    index, x_sample = index // nx, index % nx
    index, x_bin = index // width, index % width
    y_bin, y_sample = index // ny, index % ny

    def along(axis, bins, sample, count):
        count = tf.cast(count, tf.float32)
        place = tf.cast(bins, tf.float32) + (tf.cast(sample, tf.float32) + 0.5) / count
        place = tf.gather(flat.start[:, axis], box) + place * tf.gather(flat.bin[:, axis], box)
        return _neighbours(place, tf.gather(flat.extent[:, axis], box), 1.0 / count)

    map_width = tf.gather(tf.cast(flat.extent[:, 1], tf.int32), box)
    origin = tf.gather(tf.reshape(first, (-1,)), box)
    output = (box * height + y_bin) * width + x_bin
    columns, weights = [], []
    for row, row_weight in along(0, y_bin, y_sample, ny):
        for column, column_weight in along(1, x_bin, x_sample, nx):
            columns.append(origin + row * map_width + column)
            weights.append(row_weight * column_weight)
    indices = tf.stack([tf.tile(output, (4,)), tf.concat(columns, 0)], axis=-1)
    shape = tf.stack([tf.shape(per_box)[0] * height * width, tf.shape(cells)[0]])
    matrix = tf.SparseTensor(
        tf.cast(indices, tf.int64), tf.concat(weights, 0), tf.cast(shape, tf.int64)
    )
    out = tf.sparse.sparse_dense_matmul(matrix, tf.cast(cells, tf.float32))
    return tf.cast(tf.reshape(out, (-1, height, width, cells.shape[-1])), cells.dtype)
