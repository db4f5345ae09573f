"""What the size of a frame costs: mask targets from frames against those of two references.

    python -m tests.data_pipeline.frame_cost FOLDER

FOLDER holds instances.json and images/. References: "image", a bitmap of the whole canvas, and
"polygon", the shape drawn on the target's own grid. Pictures have network scale (800, 1333); each
object's region is its box, every edge moved by up to 8 % of the box's side (seed 0). Prints, for
each target and frame, and for small, medium and large objects: the share of target cells that
differ in per cent, the mean IoU, and the mean IoU of the cells next to either border.
"""

import itertools
import pathlib
import sys
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from pac_keras.data import CocoSource, Preprocessing
from pac_keras.data.augment import resize_to_target
from pac_keras.data.collate import Layout, collate
from pac_keras.data.frames import rasterise, run_lengths
from pac_keras.data.image import canvas
from pac_keras.masks import roi_targets

AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # stored pixels
FRAMES, GRIDS = (56, 112, 160, 224, 336, 448, "image"), (28, 112, 224)  # cells a side
REFERENCES = ("image", "polygon")
JITTER = 0.08  # of a box's side: IoU of region and box 0.7 to 1


class Scene(NamedTuple):
    """A picture at network scale, without crowd, and a region per object: float32 `[R, 4]`."""

    sample: object
    regions: np.ndarray


def scenes(source, seed=0):
    """A `Scene` of each picture that has objects."""
    random = np.random.default_rng(seed)
    for index in range(len(source)):
        sample = resize_to_target(source[index], Preprocessing())
        rows = np.flatnonzero(sample.labels >= 0)
        if len(rows):
            boxes = sample.boxes[rows]
            sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            regions = boxes + random.uniform(-JITTER, JITTER, boxes.shape) * sides
            height, width = sample.image.shape[:2]
            regions = np.clip(regions, 0, (width, height) * 2).astype("float32")
            shapes = tuple(sample.segmentations[row] for row in rows)
            sample = sample._replace(boxes=boxes, labels=sample.labels[rows], segmentations=shapes)
            yield Scene(sample, regions)


def targets(scene, frame, grid):
    """bool `[R, grid, grid]` from frames of `frame` x `frame` cells, from "image" or "polygon"."""
    sample, regions = scene
    if frame == "polygon":
        shapes = zip(sample.segmentations, regions, strict=True)
        drawn = [rasterise(shape, sample.transform, box, (grid, grid)) for shape, box in shapes]
        return np.stack(drawn).astype(bool)
    layout = Layout(len(regions), 1, frame if frame == "image" else (frame, frame))
    batch = collate([sample], canvas(sample.image.shape[:2]), Preprocessing(), layout)
    masks, frames = batch.ground_truth.masks, batch.ground_truth.mask_frames
    return np.asarray(roi_targets(masks, frames, regions[None], batch.images.sizes, grid)[0] > 0)


def agreement(first, second):
    """float `[R, 3]`: share of cells that differ, IoU, IoU next to either border."""
    band = _border(first) | _border(second)
    differing = np.mean(first != second, axis=(1, 2))
    return np.stack([differing, _iou(first, second), _iou(first & band, second & band)], axis=1)


def areas(scene):
    """Pixels of each object in the stored picture."""
    sample = scene.sample
    lengths = [run_lengths(shape, sample.size) for shape in sample.segmentations]
    return np.asarray([float(mask_utils.area(runs)) for runs in lengths])


def _border(masks):
    """Cells with another value among their eight neighbours."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)), mode="edge")
    shifts = [(y, x) for y in range(3) for x in range(3)]
    height, width = masks.shape[1:]
    near = np.stack([padded[:, y : y + height, x : x + width] for y, x in shifts])
    return near.any(axis=0) & ~near.all(axis=0)


def _iou(first, second):
    """`[R]`; 1 for two empty masks, which agree."""
    shared = np.count_nonzero(first & second, axis=(1, 2))
    union = np.count_nonzero(first | second, axis=(1, 2))
    return np.where(union == 0, 1.0, shared / np.maximum(union, 1))


def measure(source):
    """({(grid, frame, reference): `agreement` of all objects}, their `areas`)."""
    found, sizes = {}, []
    for scene in scenes(source):
        sizes.append(areas(scene))
        for grid in GRIDS:
            drawn = {frame: targets(scene, frame, grid) for frame in (*FRAMES, "polygon")}
            for frame, reference in itertools.product(FRAMES, REFERENCES):
                rows = found.setdefault((grid, frame, reference), [])
                rows.append(agreement(drawn[frame], drawn[reference]))
    return {case: np.concatenate(rows) for case, rows in found.items()}, np.concatenate(sizes)


def main(folder):
    """Prints the table of the pictures in `folder`."""
    folder = pathlib.Path(folder)
    found, sizes = measure(CocoSource(folder / "instances.json", folder / "images"))
    chosen = {name: (sizes >= low) & (sizes < high) for name, (low, high) in AREAS.items()}
    print("objects:", {name: int(rows.sum()) for name, rows in chosen.items()})
    titles = [f"{reference}, {name}" for reference in REFERENCES for name in AREAS]
    print("| target | frame |", " | ".join(titles), "|")
    print("|---" * (2 + len(titles)) + "|")
    for grid, frame in itertools.product(GRIDS, FRAMES):
        means = [
            found[grid, frame, reference][rows].mean(axis=0)
            for reference in REFERENCES
            for rows in chosen.values()
        ]
        texts = [f"{100 * a:.2f} / {b:.3f} / {c:.3f}" for a, b, c in means]
        print(f"| {grid} | {frame} |", " | ".join(texts), "|")


if __name__ == "__main__":
    main(sys.argv[1])
