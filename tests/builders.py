"""What several test modules build: annotations, gradients, priorities."""

import keras
import numpy as np
from keras import ops

from pac_keras.structures import PADDING, GroundTruth, Matches, Rois


def ground_truth(boxes, labels, masks=None, frames=None, extra=0):
    """GroundTruth of `boxes` `[B, G, 4]` and `labels` `[B, G]`, with `extra` padding rows.

    Without `masks`, each object fills its box.
    """
    boxes = np.asarray(boxes, "float32")
    batch, objects = boxes.shape[:2]
    labels = np.asarray(labels, "int32").reshape(batch, objects)
    masks = np.ones((batch, objects, 4, 4), "uint8") if masks is None else np.asarray(masks)
    frames = boxes if frames is None else np.asarray(frames, "float32")
    more = lambda x, value=0: np.pad(  # noqa: E731
        x, ((0, 0), (0, extra), *[(0, 0)] * (x.ndim - 2)), constant_values=value
    )
    return GroundTruth(
        boxes=more(boxes),
        labels=more(labels, PADDING),
        masks=more(masks),
        mask_frames=more(frames),
        semantic=np.zeros((batch, 4, 4), "uint8"),
        image_ids=np.arange(batch, dtype="int32"),
    )


def rois(boxes, valid=None, is_truth=None):
    """Rois of `boxes` `[B, R, 4]`; valid and not ground truth unless said otherwise."""
    boxes = np.asarray(boxes, "float32")
    valid = np.ones(boxes.shape[:2]) if valid is None else valid
    is_truth = np.zeros(boxes.shape[:2]) if is_truth is None else is_truth
    return Rois(boxes, np.asarray(valid, "float32"), np.asarray(is_truth, "float32"))


def matches(objects, labels, positive):
    """Matches of nested lists `[B, R]`."""
    return Matches(
        np.asarray(objects, "int32"), np.asarray(labels, "int32"), np.asarray(positive, "float32")
    )


def first(shape):
    """Priority of sampling that takes the lowest rows."""
    return ops.broadcast_to(-ops.cast(ops.arange(shape[1]), "float32")[None], shape)


def numpy(x):
    """NumPy array of a tensor."""
    return ops.convert_to_numpy(x)


def compiled(function):
    """`function` of tensors, traced once per call: `tf.function` or `jax.jit`."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    graph = tf.function(function)
    return lambda *arrays: graph(*(tf.convert_to_tensor(x) for x in arrays))


def gradient(function, x):
    """Gradient of the scalar `function` at the array `x`, NumPy."""
    if keras.backend.backend() == "jax":
        import jax

        return numpy(jax.grad(function)(ops.convert_to_tensor(x)))
    import tensorflow as tf

    def differentiate(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tf.convert_to_tensor(tape.gradient(value, x))

    return numpy(compiled(differentiate)(x))


def weight_gradients(layer, function, *inputs, **arguments):
    """{path: gradient or None} of `function(layer(*inputs, **arguments))` by trainable weight."""
    paths = [variable.path for variable in layer.trainable_variables]
    if keras.backend.backend() == "jax":
        import jax

        def loss(values):
            fixed = [variable.value for variable in layer.non_trainable_variables]
            return function(layer.stateless_call(values, fixed, *inputs, **arguments)[0])

        values = [variable.value for variable in layer.trainable_variables]
        return dict(zip(paths, map(numpy, jax.grad(loss)(values)), strict=True))
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = function(layer(*inputs, **arguments))
    gradients = tape.gradient(value, [variable.value for variable in layer.trainable_variables])
    return {p: None if g is None else numpy(g) for p, g in zip(paths, gradients, strict=True)}


def count_weights(layer):
    """Number of weights without batch norm's statistics and seeds."""
    return sum(
        int(np.prod(variable.shape))
        for variable in layer.variables
        if "moving_" not in variable.path and "seed" not in variable.path
    )
