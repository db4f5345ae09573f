"""What the grid of RDSNet's masks costs at its border.

    python -m tests.evaluation.mask_side JSON IMAGES [PICTURES]

Mask logits of stride 4 are made from the objects of a COCO json (the share of each cell that the
object covers), as a perfect pixel stream would answer them at 800, 1333. Prints, by the size of the
object, the IoU between such masks enlarged to every pixel and the same by way of a grid of that
many cells a side over the object's frame: mean, and of the worst object.
"""

import sys

import numpy as np
from keras import ops

from pac_keras.conventions import EDGES
from pac_keras.data import coco
from pac_keras.detections.paste import paste_mask
from pac_keras.heads import mbrm, pixel

SIDES = (56, 112, 160, 224)
CLASSES = {"64 to 160 px": 160, "to 400 px": 400, "larger": np.inf}  # square root of the box's area
LEAST_AREA, STEEPNESS, THRESHOLD = 64**2, 10.0, 0.4


def overlaps(mask, box, sizes):
    """[IoU at each of `SIDES`] of one object: uint8 `[H, W]`, float32 `[1, 1, 4]`."""
    height, width = mask.shape
    cells = mask.reshape(height // 4, 4, width // 4, 4).mean(axis=(1, 3))
    logits = (STEEPNESS * (cells - 0.5)).astype("float32")[None, None]
    frame = EDGES.crop(box, sizes, (0.1, 1.0))
    full = ops.sigmoid(mbrm.full_logits(logits, frame, height, width))
    full = ops.convert_to_numpy(full)[0, 0] >= THRESHOLD
    for side in SIDES:
        grid = ops.convert_to_numpy(pixel.masks_in_frames(logits, frame, side))[0, 0]
        frame_of_grid = ops.convert_to_numpy(frame)[0, 0]
        drawn = paste_mask(grid, frame_of_grid, (height, width), THRESHOLD)
        yield (drawn & full).sum() / (drawn | full).sum()


def main(json, images, pictures=24):
    """Prints the table."""
    data = coco(json, images, training=False, batch_size=1, frame="image", limit=int(pictures))
    rows = {name: [] for name in CLASSES}
    for (_, sizes), truth in data:
        for row, mask in enumerate(truth.masks[0]):
            if truth.labels[0, row] >= 0 and mask.sum() >= LEAST_AREA:
                box = truth.boxes[:, row : row + 1]
                side = np.sqrt(np.prod(box[0, 0, 2:] - box[0, 0, :2]))
                name = next(name for name, limit in CLASSES.items() if side < limit)
                rows[name].append(list(overlaps(mask, box, sizes)))
    for name, values in rows.items():
        found = zip(SIDES, np.mean(values, axis=0), np.min(values, axis=0), strict=True)
        print(f"{name:14} {len(values):4}", *(f"{s}: {m:.4f}, {w:.4f}" for s, m, w in found))


if __name__ == "__main__":
    main(*sys.argv[1:])
