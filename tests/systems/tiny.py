"""Small systems and batches: an eager loss with its gradient takes about a second."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from pac_keras import (
    HTC,
    PAC,
    Batch,
    CascadeMaskRCNN,
    GroundTruth,
    Images,
    MaskRCNN,
    MaskScoringRCNN,
    RDSNet,
    RDSNetS,
    RefineMask,
    SCNet,
)
from pac_keras.boxes import clip_boxes
from pac_keras.structures import CROWD, IGNORED_PIXEL, PADDING, Rois

TWO_STAGE = (MaskRCNN, CascadeMaskRCNN, MaskScoringRCNN, RefineMask, HTC, SCNet, PAC)
ONE_STAGE = (RDSNet, RDSNetS)
SYSTEMS = (*ONE_STAGE, *TWO_STAGE)
SEMANTIC = (HTC, SCNet, PAC)  # those with a branch that segments the whole picture
CLASSES, SEMANTIC_CLASSES = 5, 6


def traced(default):
    """Parameters: all systems; to trace a step takes so long that all but one of them are slow."""
    return [
        pytest.param(system, marks=[] if system is default else [pytest.mark.slow])
        for system in SYSTEMS
    ]


COMMON = {
    "backbone": "resnet18",
    "base_channels": 16,  # fewer crash oneDNN's gradient of strided 1x1 convolutions at batch 1
    "frozen_stages": 0,
    "norm": "batch",
    "channels": 8,
    "max_detections": 10,
    "sampling": "first",
}
REGIONS = {
    "fc_channels": 16,
    "pre_nms": (50, 50),
    "max_proposals": (40, 30),
    "rpn_samples": 32,
    "roi_samples": 16,
}
ANCHORS = {
    "pre_nms": 50,
    "rep_channels": 4,
    "mask_samples": 16,
    "mask_side": 28,
    "score_threshold": 0.001,  # a new RetinaNet gives every class a probability of 0.01
}
# RefineMask halves its channels three times.
OWN_ARGUMENTS = {
    RefineMask: {"channels": 32},
    RDSNet: {"num_convs": 2, "norm_groups": 4},
    RDSNetS: {"box_refinement": "bayes"},
}
_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


def arguments(system):
    """What a small `system` is built with."""
    own = OWN_ARGUMENTS.get(system, {})
    return COMMON | (REGIONS if system in TWO_STAGE else ANCHORS) | own


def build(system, seed=0, **changed):
    """A small `system` with random weights that depend on `seed` alone."""
    keras.utils.set_random_seed(seed)
    if system in SEMANTIC:
        changed = {"num_semantic_classes": SEMANTIC_CLASSES} | changed
    return system(CLASSES, **(arguments(system) | changed))


def mask_side(system):
    """Cells per side of a system's masks."""
    return 112 if system is RefineMask else 28


def stages(model):
    """The box stages of a system: several, one, or none."""
    if isinstance(model, ONE_STAGE):
        return []
    return model.stages if hasattr(model, "stages") else [model.stage]


def images(sizes=((64, 96), (60, 80)), canvas=(64, 96), seed=0):
    """Images of noise, NumPy, zero outside `sizes`."""
    pixels = np.zeros((len(sizes), *canvas, 3), "float32")
    for picture, (height, width) in enumerate(sizes):
        noise = np.random.default_rng([seed, picture]).normal(size=(height, width, 3))
        pixels[picture, :height, :width] = noise
    return Images(pixels, np.asarray(sizes, "int32"))


def batch(objects=(3, 1), sizes=((64, 96), (60, 80)), canvas=(64, 96), rows=None, seed=0):
    """Batch, NumPy, with that many elliptic objects in each picture.

    Args:
        objects: for each picture a number, or a tuple of labels (`CROWD` covers all of it).
        rows: of ground truth, at least the most objects; None = exactly as many, at least 1.
    """
    labels_of = [n if isinstance(n, tuple) else tuple(np.arange(n) % CLASSES) for n in objects]
    rows = rows or max(1, *map(len, labels_of))
    count = len(sizes)
    boxes = np.zeros((count, rows, 4), "float32")
    labels = np.full((count, rows), PADDING, "int32")
    semantic = np.full((count, canvas[0] // 8, canvas[1] // 8), IGNORED_PIXEL, "uint8")
    for i, (picture_labels, (height, width)) in enumerate(zip(labels_of, sizes, strict=True)):
        random = np.random.default_rng([seed, i])
        semantic[i, : height // 8, : width // 8] = random.integers(
            0, SEMANTIC_CLASSES, (height // 8, width // 8)
        )
        for row, label in enumerate(picture_labels):
            labels[i, row] = label
            boxes[i, row] = (0, 0, width, height) if label == CROWD else _box(random, height, width)
    y, x = np.meshgrid(np.linspace(-1, 1, 28), np.linspace(-1, 1, 28), indexing="ij")
    masks = np.broadcast_to((y**2 + x**2 < 1).astype("uint8"), (count, rows, 28, 28)).copy()
    frames = np.where(labels[..., None] == PADDING, np.float32([0, 0, 1, 1]), boxes)
    frames = frames + np.float32([-1, -1, 1, 1]) * (labels[..., None] != PADDING)
    ids = np.arange(count, dtype="int32")
    truth = GroundTruth(boxes, labels, masks, frames.astype("float32"), semantic, ids)
    return Batch(images(sizes, canvas, seed), truth)


def shapes_a_a_b_a(rows=3):
    """Four Batches of two pictures; the third has another canvas."""
    wide = [batch((3, 1), rows=rows, seed=seed) for seed in range(3)]
    tall = batch((2, 3), ((96, 64), (90, 64)), (96, 64), rows=rows, seed=3)
    return [wide[0], wide[1], tall, wide[2]]


def _box(random, height, width):
    """A box of at least a third of the picture's sides, inside it."""
    box_width, box_height = random.uniform(0.35, 0.9, 2) * (width, height)
    x0, y0 = random.uniform(0, 1, 2) * (width - box_width, height - box_height)
    return x0, y0, x0 + box_width, y0 + box_height


def tensors(structure):
    """The same Batch or Images with tensors of the backend in it."""
    if isinstance(structure, Batch):
        return Batch(*map(tensors, structure))
    return type(structure)(*map(ops.convert_to_tensor, structure))


def numbers(structure):
    """{field: NumPy array} of Detections, or {name: value} of losses."""
    items = structure if isinstance(structure, dict) else structure._asdict()
    return {name: ops.convert_to_numpy(value) for name, value in items.items()}


def loss_values(model, batch, training=True):
    """{name: loss} of a NumPy Batch, floats; "loss" is the total."""
    total, losses = model.mean_losses(tensors(batch), training)
    return {name: float(value) for name, value in {"loss": total, **losses}.items()}


def fix_proposals(model, count=24, extra=0, size=(64, 96), seed=1):
    """Makes `model` propose the same boxes in every picture; the last `extra` rows are padding.

    One-stage systems have no proposals; nothing of theirs is drawn by lot with sampling="first".
    """
    random = np.random.default_rng(seed)
    boxes = np.asarray([_box(random, *size) for _ in range(count)] + [(0,) * 4] * extra, "float32")
    valid = np.asarray([1] * count + [0] * extra, "float32")

    def propose(maps, sizes, training=False):
        pictures = ops.shape(sizes)[0]
        rois = ops.broadcast_to(boxes[None], (pictures, *boxes.shape))
        present = ops.broadcast_to(valid[None], (pictures, len(valid)))
        return Rois(clip_boxes(rois, sizes), present, ops.zeros_like(present))

    model.propose = propose
    return model


def dataset(batches, repeat=None):
    """`tf.data.Dataset` of NumPy Batches whose heights and widths are unknown to the graph."""
    import tensorflow as tf

    def spec(array):
        sides = (None, None) if array.ndim == 4 or array.dtype == "uint8" else array.shape[1:]
        sides = array.shape[1:] if array.shape[-2:] == (28, 28) else sides
        sides = (*sides, 3) if array.shape[-1] == 3 and array.ndim == 4 else sides
        return tf.TensorSpec((None, *sides), array.dtype)

    first = batches[0]
    signature = Batch(Images(*map(spec, first.images)), GroundTruth(*map(spec, first.ground_truth)))
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature).repeat(
        repeat or 1
    )


def environment(backend="tensorflow", **variables):
    """Environment of a Python process that finds the project and these tests."""
    return os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_HERE)]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **variables,
    }


def run_python(arguments, *, backend="tensorflow", timeout=900, **variables):
    """Standard output of a fresh Python; `variables` of its environment; fails with its errors."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment(backend, **variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout
