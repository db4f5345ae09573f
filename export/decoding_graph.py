"""Reading pictures in a served graph (TensorFlow)."""

import tensorflow as tf

from pac_keras.data.image import MAX_PIXELS

UNREADABLE = "not a JPEG, PNG, GIF, BMP or WebP picture that can be read, or too large"
_BMP_BITS_AT, _BMP_COLOURS = 28, ("\x18\0", "\x20\0")  # of the header: 24 and 32 bits a pixel


def decode(content):
    """uint8 `[H, W, 3]`, RGB, of the bytes of a picture; equal to `data.image.read_image`.

    As stored: EXIF orientation is not applied, transparency is dropped, of an animated GIF the
    first frame is read. JPEG, PNG, GIF, WebP that is opaque and not animated, and BMP of 24 or 32
    bits (TensorFlow would take the indices of a palette for grey values). Two differences stay: the
    transparent pixels of a GIF are black, and CMYK may be one level off.
    Raises InvalidArgumentError for all else, and for more than `MAX_PIXELS` pixels.
    """
    is_jpeg = tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff"
    picture = tf.cond(is_jpeg, lambda: _decode_jpeg(content), lambda: _decode_other(content))
    fits = tf.reduce_prod(tf.shape(picture, tf.int64)[:2]) <= MAX_PIXELS
    with tf.control_dependencies([tf.debugging.Assert(fits, ["too large"])]):
        return tf.ensure_shape(picture, [None, None, 3])


def decode_or_tell(content):
    """(uint8 `[H, W, 3]`, error): "" and the picture, or a sentence and a black pixel.

    A data set may leave out elements that fail: that is the one way in which a graph can go on
    after an error.
    """
    read = tf.data.Dataset.from_tensors(content).map(lambda one: (decode(one), ""))
    instead = tf.data.Dataset.from_tensors((tf.zeros([1, 1, 3], tf.uint8), UNREADABLE))
    return read.ignore_errors().concatenate(instead).take(1).get_single_element()


def _decode_jpeg(content):
    return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_other(content):
    is_bmp = tf.strings.substr(content, 0, 2) == b"BM"
    bits = tf.cond(
        is_bmp & (tf.strings.length(content) >= _BMP_BITS_AT + 2),
        lambda: tf.strings.substr(content, _BMP_BITS_AT, 2),
        lambda: "",
    )
    has_colours = tf.reduce_any(bits == tf.constant(_BMP_COLOURS))
    with tf.control_dependencies([tf.debugging.Assert(has_colours | ~is_bmp, ["BMP palette"])]):
        return tf.io.decode_image(content, channels=3, expand_animations=False)
