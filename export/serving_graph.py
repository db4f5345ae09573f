"""The served graph: pictures in, objects in the pictures' own pixels out (TensorFlow).

Around the model's own `call` it puts, as graph operations, what `data/image.py` and
`detections/paste.py` do around it elsewhere: decode, resize, normalise, pad; boxes and masks back.
"""

import numpy as np
import tensorflow as tf

from pac_keras.masks import paste
from pac_keras.structures import Images


def make_endpoints(model):
    """{name: (function, its input as a TensorSpec)} of the two endpoints, see `answer`."""
    example = model(Images(np.zeros((1, 64, 64, 3), "float32"), np.full((1, 2), 64, "int32")))
    found = tf.nest.map_structure(lambda leaf: tf.TensorSpec(leaf.shape[1:], leaf.dtype), example)
    each = (found, tf.TensorSpec([2], tf.int32))

    def serve_encoded(encoded):
        def detect_one(content):
            picture = decode(content)
            detections = detect(model, picture[None])
            return tf.nest.map_structure(lambda leaf: leaf[0], detections), tf.shape(picture)[:2]

        one_by_one = {"fn_output_signature": each, "parallel_iterations": 1}
        return answer(model, *tf.map_fn(detect_one, encoded, **one_by_one))

    def serve_images(images):
        sizes = tf.repeat(tf.shape(images)[None, 1:3], tf.shape(images)[0], axis=0)
        return answer(model, detect(model, images), sizes)

    return {
        "serving_default": (serve_encoded, tf.TensorSpec([None], tf.string, "encoded")),
        "images": (serve_images, tf.TensorSpec([None, None, None, 3], tf.uint8, "images")),
    }


def answer(model, found, sizes):
    """What an endpoint answers, a dict.

    boxes: float32 `[B, D, 4]`, xyxy in the picture's own pixels.
    labels: int32 `[B, D]`, 0..K-1, -1 on padding; category_ids: int32, the ids of the training
        data's json (the labels themselves where the model knows no categories), -1 on padding.
    scores, box_scores: float32 `[B, D]`, the ranking of masks and of boxes.
    masks: uint8 `[B, D, H, W]`, 0 or 1; H and W are the greatest height and width in the batch,
        and smaller pictures lie at the top left.
    valid: bool `[B, D]`, False on padding.
    sizes: int32 `[B, 2]`, (height, width) of each picture.
    """
    valid = found.labels >= 0
    ids = [category[0] for category in model.categories or ()] or range(model.num_classes)
    category_ids = tf.gather(tf.constant(list(ids), tf.int32), tf.maximum(found.labels, 0))
    return {
        "boxes": found.boxes,
        "labels": found.labels,
        "category_ids": tf.where(valid, category_ids, -1),
        "scores": found.scores,
        "box_scores": found.box_scores,
        "masks": full_size_masks(found, sizes, model.mask_threshold),
        "valid": valid,
        "sizes": sizes,
    }


def decode(content):
    """uint8 `[H, W, 3]`, RGB, of the bytes of a JPEG or PNG; equal to Pillow's decoding.

    As stored: EXIF orientation is not applied, transparency is dropped.
    """
    return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")


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
    edges = tf.tile(scale[::-1], [2])
    limits = tf.cast(tf.tile(size[::-1], [2]), tf.float32)
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
    height, width = limits[0], limits[1]
    rows, columns = tf.range(height)[:, None], tf.range(width)[None]
    count, grid = found.masks.shape[1], found.masks.shape[2:]

    def draw(inputs):
        mask, frame, size = inputs
        drawn = paste(mask[None, None], frame[None, None], height, width)[0, 0] >= threshold
        return tf.cast(drawn & (rows < size[0]) & (columns < size[1]), tf.uint8)

    masks = tf.map_fn(
        draw,
        (
            tf.reshape(found.masks, (-1, *grid)),
            tf.reshape(found.mask_frames, (-1, 4)),
            tf.repeat(sizes, count, axis=0),
        ),
        fn_output_signature=tf.TensorSpec([None, None], tf.uint8),
    )
    return tf.reshape(masks, tf.stack([tf.shape(sizes)[0], count, height, width]))
