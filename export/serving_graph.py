"""The served graph: pictures in, objects in the pictures' own pixels out (TensorFlow).

Around the model's own `call` it puts, as graph operations, what `data/image.py` and
`detections/paste.py` do around it elsewhere: decode, resize, normalise, pad; boxes and masks back.
"""

import numpy as np
import tensorflow as tf
from decoding_graph import decode_or_tell

from pac_keras.masks import paste
from pac_keras.structures import PADDING, Detections, Images


def make_endpoints(model):
    """{name: (function, TensorSpecs of its inputs)} of the endpoints; their answers are dicts.

    serving_default, images: see `answer`, with "masks"; serving_default also has "errors".
    png: as serving_default, with "masks_bytes" in place of "masks".
    raw: the network itself, `Images` in, the fields of `Detections` out.
    """
    encoded = [tf.TensorSpec([None], tf.string, "encoded")]
    images = [tf.TensorSpec([None, None, None, 3], tf.uint8, "images")]
    raw = [
        tf.TensorSpec([None, None, None, 3], tf.float32, "pixels"),
        tf.TensorSpec([None, 2], tf.int32, "sizes"),
    ]

    def serve_encoded(encoded):
        found, sizes, errors = detect_encoded(model, encoded)
        masks = full_size_masks(found, sizes, model.mask_threshold)
        return answer(model, found, sizes) | {"masks": masks, "errors": errors}

    def serve_png(encoded):
        found, sizes, errors = detect_encoded(model, encoded)
        masks = png_masks(found, sizes, model.mask_threshold)
        return answer(model, found, sizes) | {"masks_bytes": masks, "errors": errors}

    def serve_images(images):
        found = detect(model, images)
        sizes = tf.repeat(tf.shape(images)[None, 1:3], tf.shape(images)[0], axis=0)
        masks = full_size_masks(found, sizes, model.mask_threshold)
        return answer(model, found, sizes) | {"masks": masks}

    def serve_raw(pixels, sizes):
        return model(Images(pixels, sizes))._asdict()

    return {
        "serving_default": (serve_encoded, encoded),
        "png": (serve_png, encoded),
        "images": (serve_images, images),
        "raw": (serve_raw, raw),
    }


def answer(model, found, sizes):
    """What the endpoints answer besides masks, a dict.

    boxes: float32 `[B, D, 4]`, xyxy in the picture's own pixels.
    labels: int32 `[B, D]`, 0..K-1, -1 on padding; category_ids: int32, the ids of the training
        data's json (the labels themselves where the model knows no categories), -1 on padding;
        names: strings, UTF-8, "" on padding.
    scores, box_scores: float32 `[B, D]`, the ranking of masks and of boxes.
    valid: bool `[B, D]`, False on padding.
    sizes: int32 `[B, 2]`, (height, width) of each picture; (0, 0) where it could not be read.

    masks: uint8 `[B, D, H, W]`, 0 or 1; H and W are the greatest height and width in the batch,
        and smaller pictures lie at the top left.
    masks_bytes: strings `[B, D]`, PNG of a mask at the picture's size, 0 or 255, "" on padding.
    errors: strings `[B]`, "" or why a picture could not be read; it then has no objects.
    """
    valid = found.labels >= 0
    known = model.categories or [(k, f"class {k}") for k in range(model.num_classes)]
    ids, names = (list(column) for column in zip(*known, strict=True))
    rows = tf.maximum(found.labels, 0)
    return {
        "boxes": found.boxes,
        "labels": found.labels,
        "category_ids": tf.where(valid, tf.gather(tf.constant(ids, tf.int32), rows), -1),
        "names": tf.where(valid, tf.gather(tf.constant(names), rows), ""),
        "scores": found.scores,
        "box_scores": found.box_scores,
        "valid": valid,
        "sizes": sizes,
    }


def detect_encoded(model, encoded):
    """(`Detections`, sizes `[B, 2]`, errors `[B]`) of encoded pictures, one by one."""
    example = model(Images(np.zeros((1, 64, 64, 3), "float32"), np.full((1, 2), 64, "int32")))
    found = tf.nest.map_structure(lambda leaf: tf.TensorSpec(leaf.shape[1:], leaf.dtype), example)

    def detect_one(content):
        picture, error = decode_or_tell(content)
        readable = error == ""
        detections = tf.cond(readable, lambda: first(detect(model, picture[None])), nothing)
        return detections, tf.where(readable, tf.shape(picture)[:2], 0), error

    def nothing():
        empty = Detections(*(tf.zeros(leaf.shape, leaf.dtype) for leaf in found))
        return empty._replace(labels=tf.fill(found.labels.shape, PADDING))

    return tf.map_fn(
        detect_one,
        encoded,
        fn_output_signature=(found, tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.string)),
        parallel_iterations=1,
    )


def first(detections):
    """`Detections` of one picture without the batch axis."""
    return Detections(*(leaf[0] for leaf in detections))


def detect(model, pictures):
    """Detections of uint8 pictures `[B, H, W, 3]`; boxes and frames in the pictures' own pixels."""
    preprocessing = model.preprocessing
    size = tf.shape(pictures)[1:3]
    new_size = target_size(size, preprocessing)
    pixels = tf.cast(resize(pictures, new_size), tf.float32)
    mean, std = (np.asarray(x, "float32") for x in (preprocessing.mean, preprocessing.std))
    missing = -new_size % preprocessing.stride
    padding = [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]]
    pixels = tf.pad((pixels - mean) / std, padding)
    found = model(Images(pixels, tf.repeat(new_size[None], tf.shape(pictures)[0], axis=0)))
    scale = tf.cast(new_size / size, tf.float32)  # (y, x)
    edges = tf.tile(tf.reverse(scale, [0]), [2])  # [::-1] stops TensorFlow's layout optimizer
    limits = tf.cast(tf.tile(tf.reverse(size, [0]), [2]), tf.float32)
    boxes = tf.clip_by_value(found.boxes / edges, 0.0, limits)
    return found._replace(boxes=boxes, mask_frames=found.mask_frames / edges)


def target_size(size, preprocessing):
    """int32 (height, width) after the resize, as `data.image.target_size`."""
    if not preprocessing.keep_ratio:
        landscape = preprocessing.short_side, preprocessing.long_side
        return tf.where(size[1] > size[0], landscape, landscape[::-1])
    sides = tf.cast(size, tf.float64)
    long_side = tf.cast(preprocessing.long_side, tf.float64) / tf.reduce_max(sides)
    short_side = tf.cast(preprocessing.short_side, tf.float64) / tf.reduce_min(sides)
    return tf.maximum(tf.cast(sides * tf.minimum(long_side, short_side) + 0.5, tf.int32), 1)


def resize(pictures, size):
    """uint8 `[B, h, w, 3]`: bilinear, half-pixel centres, no antialias, rounded half up."""
    return tf.cast(tf.image.resize(pictures, size, antialias=False) + 0.5, tf.uint8)


def full_size_masks(found, sizes, threshold):
    """uint8 `[B, D, H, W]`: each mask in its picture, drawn one at a time to save memory."""
    limits = tf.reduce_max(tf.concat([sizes, tf.ones([1, 2], tf.int32)], 0), axis=0)
    rows, columns = tf.range(limits[0])[:, None], tf.range(limits[1])[None]

    def draw(mask, frame, size):
        inside = (rows < size[0]) & (columns < size[1])
        return tf.cast(_drawn(mask, frame, limits, threshold) & inside, tf.uint8)

    masks = _each_mask(draw, found, sizes, tf.TensorSpec([None, None], tf.uint8))
    return tf.reshape(masks, tf.concat([tf.shape(found.labels), limits], axis=0))


def png_masks(found, sizes, threshold):
    """Strings `[B, D]`: each mask as a grey PNG of its picture's size, "" on padding."""

    def encode(mask, frame, size):
        drawn = tf.cast(_drawn(mask, frame, size, threshold), tf.uint8) * 255
        return tf.io.encode_png(drawn[..., None])

    # Padding lies in a picture of one pixel: a picture that could not be read has none.
    sizes = tf.where(sizes == 0, 1, sizes)
    masks = _each_mask(encode, found, sizes, tf.TensorSpec([], tf.string))
    return tf.where(found.labels >= 0, tf.reshape(masks, tf.shape(found.labels)), "")


def _drawn(mask, frame, size, threshold):
    """bool `[H, W]`, `size`: a mask `[h, w]` stretched over its frame."""
    return paste(mask[None, None], frame[None, None], size[0], size[1])[0, 0] >= threshold


def _each_mask(function, found, sizes, signature):
    """`function(mask, frame, size)` of every object of every picture, stacked."""
    grid = found.masks.shape[2:]
    inputs = (
        tf.reshape(found.masks, (-1, *grid)),
        tf.reshape(found.mask_frames, (-1, 4)),
        tf.repeat(sizes, found.masks.shape[1], axis=0),
    )
    return tf.map_fn(lambda one: function(*one), inputs, fn_output_signature=signature)
