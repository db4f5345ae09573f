"""The same objects as several models see them, enlarged.

    python -m tests.evaluation.side_by_side OUT.png A.keras B.keras ...

Draws six of the built-in validation shapes, chosen by lot among the large ones that every model
finds with a mask IoU of 0.8: the truth on the left, then each model's mask. Prints their IoUs.
"""

import sys

import keras
import numpy as np
from pycocotools import mask as mask_utils

import pac_keras
from pac_keras.data import shapes
from pac_keras.detections.paste import Instances
from pac_keras.visualize import contact_sheet, draw

PICTURES, SIZE = 60, 256  # of the validation split, pixels a side
LARGE, FOUND = 4000, 0.8  # pixels; IoU
CHOSEN, TILE, ZOOM = 6, 260, 4


def objects(source, models):
    """Yields (picture, truth, [best mask of each model], [its IoU]) of the objects to choose from.

    The picture is uint8 `[H, W, 3]`; masks are run lengths.
    """
    truth = source.coco_json()["annotations"]
    for index in range(len(source)):
        image = source[index].image
        answers = [pac_keras.predict(model, image).segmentations for model in models]
        for annotation in truth:
            if annotation["image_id"] == index and annotation["area"] >= LARGE:
                own = annotation["segmentation"]
                pairs = [_best(own, masks) for masks in answers]
                if min(iou for iou, _ in pairs) >= FOUND:
                    yield image, own, [mask for _, mask in pairs], [iou for iou, _ in pairs]


def _best(own, masks):
    """(IoU, mask) of the mask that overlaps `own` most; (0, None) of no masks."""
    overlaps = mask_utils.iou(list(masks), [own], [0])
    if not len(overlaps):
        return 0.0, None
    return float(overlaps.max()), masks[int(overlaps.argmax())]


def tile(image, own, mask):
    """PIL image of `mask` over the square around `own`, enlarged."""
    box = np.zeros((1, 4), "float32")
    one = Instances(box, np.zeros(1, int), ("",), np.ones(1), (mask,), (SIZE, SIZE))
    picture = draw(image, one, labels=False, min_side=ZOOM * SIZE)
    left, top, width, height = mask_utils.toBbox(own)
    side = min(1.15 * max(width, height), SIZE)
    x0, y0 = np.clip([left + (width - side) / 2, top + (height - side) / 2], 0, SIZE - side)
    window = [int(ZOOM * edge) for edge in (x0, y0, x0 + side, y0 + side)]
    return picture.crop(window).resize((TILE, TILE))


def main(out, *paths):
    """Writes the picture."""
    models = [keras.models.load_model(path, compile=False) for path in paths]
    source = shapes(training=False, batch_size=1, size=SIZE, count=PICTURES).source
    found = list(objects(source, models))
    tiles = []
    for number in np.random.default_rng(0).permutation(len(found))[:CHOSEN]:
        image, own, masks, overlaps = found[number]
        print("IoU", *(f"{overlap:.3f}" for overlap in overlaps))
        tiles += [tile(image, own, mask) for mask in (own, *masks)]
    contact_sheet(tiles, columns=2 * (1 + len(models))).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
