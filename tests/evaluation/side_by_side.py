"""The same objects as several models see them, enlarged.

    python -m tests.evaluation.side_by_side OUT.png A.keras B.keras ... [--data FOLDER]

Draws six validation objects, chosen by lot among the large ones that every model finds with a mask
IoU of 0.8, of whatever class: the truth on the left, then each model's mask. Prints their IoUs and,
over all objects that could have been chosen, each model's mean IoU and boundary F. Crowds are left
out.

FOLDER holds val.json and images/ (see `data.coco_folder`); without it, the pictures are the
built-in shapes. 60 pictures are looked at, of a folder by lot. Large is, of shapes, an area of
4000 pixels; of a folder, one that a quarter of its validation objects reach: for cell nuclei
402 pixels, a disc 23 pixels across, whose border is some 70 pixels long. Dark objects are
brightened. The same command gives the same picture.
"""

import argparse

import keras
import numpy as np
from pycocotools import mask as mask_utils

import pac_keras
from pac_keras.data import coco_folder, shapes
from pac_keras.data.frames import run_lengths
from pac_keras.detections.paste import Instances, encode
from pac_keras.evaluation.boundary import boundary_f
from pac_keras.structures import CROWD
from pac_keras.visualize import contact_sheet, draw

PICTURES, SIZE = 60, 256  # looked at; pixels a side of the shapes' pictures
LARGE, LARGEST, FOUND = 4000, 0.25, 0.8  # pixels of shapes; share of a folder's objects; IoU
CHOSEN, TILE = 6, 260  # objects; pixels a side
SURROUNDINGS, LEAST = 1.15, 8  # a tile's side in object sides; or that many pixels more
BRIGHT = 200  # of 255: a darker object's picture is brightened until its brightest pixel has that
SPAN, CANVAS = 4, 1024  # drawn around a tile, in tile sides; pixels a side, for 3 of outline


def validation(folder):
    """(source, area in pixels from which an object is large); a folder of None is the shapes.

    Raises as `coco_folder`.
    """
    if folder is None:
        return shapes(training=False, batch_size=1, size=SIZE, count=PICTURES).source, LARGE
    source = coco_folder(folder, "val", training=False, batch_size=1).source
    truth = source.coco_json()["annotations"]
    areas = [annotation["area"] for annotation in truth if not annotation["iscrowd"]]
    return source, np.quantile(areas, 1 - LARGEST) if areas else 0


def objects(source, models, large):
    """Yields (picture, truth, [best mask of each model], [its IoU]) of the objects to choose from.

    The picture is uint8 `[H, W, 3]`; masks are run lengths.
    """
    for index in sorted(np.random.default_rng(0).permutation(len(source))[:PICTURES]):
        sample = source[index]
        owns = [
            run_lengths(segmentation, sample.size)
            for segmentation, label in zip(sample.segmentations, sample.labels, strict=True)
            if label != CROWD
        ]
        owns = [own for own in owns if mask_utils.area(own) >= large]
        if not owns:
            continue
        answers = [pac_keras.predict(model, sample.image).segmentations for model in models]
        for own in owns:
            pairs = [_best(own, masks) for masks in answers]
            if min(iou for iou, _ in pairs) >= FOUND:
                yield sample.image, own, [mask for _, mask in pairs], [iou for iou, _ in pairs]


def _best(own, masks):
    """(IoU, mask) of the mask that overlaps `own` most; (0, None) of no masks."""
    overlaps = mask_utils.iou(list(masks), [own], [0])
    if not len(overlaps):
        return 0.0, None
    return float(overlaps.max()), masks[int(overlaps.argmax())]


def tile(image, own, mask):
    """PIL image, TILE a side: `mask` over the square around `own`; black outside the picture.

    The outline lies inside the mask and has 1 % of the tile: half a pixel of an object of 30.
    """
    left, top, width, height = mask_utils.toBbox(own)
    longest = max(width, height)
    side = min(max(SURROUNDINGS * longest, longest + LEAST), max(image.shape[:2]))
    x0, columns = _place(left + width / 2, side, image.shape[1])
    y0, rows = _place(top + height / 2, side, image.shape[0])
    part = _brightened(image, mask_utils.decode(own))[rows, columns]
    mask = encode(mask_utils.decode(mask)[rows, columns])
    box = np.zeros((1, 4), "float32")
    one = Instances(box, np.zeros(1, int), ("",), np.ones(1), (mask,), part.shape[:2])
    picture = draw(part, one, labels=False, min_side=CANVAS)
    zoom = picture.width // part.shape[1]
    window = [int(zoom * edge) for edge in (x0, y0, x0 + side, y0 + side)]
    return picture.crop(window).resize((TILE, TILE))


def _brightened(image, own):
    """uint8 like `image`, multiplied until the brightest pixel of the mask `own` has BRIGHT."""
    gain = max(1, BRIGHT / max(1, image[own > 0].max()))
    return np.minimum(np.rint(image * gain), 255).astype("uint8")


def _place(center, side, length):
    """(start of the tile within what is drawn around it, slice of what is drawn), one axis."""
    low = np.clip(center - side / 2, 0, max(length - side, 0))
    start = int(np.clip(center - SPAN * side / 2, 0, max(length - SPAN * side, 0)))
    return low - start, slice(start, start + int(np.ceil(SPAN * side)) + 1)


def main(out, paths, folder):
    """Writes the picture and prints the IoUs and boundary F."""
    source, large = validation(folder)
    models = [keras.models.load_model(path, compile=False) for path in paths]
    found = list(objects(source, models, large))
    if not found:
        raise SystemExit(f"no object of >= {large:.0f} pixels that every model finds")
    tiles = []
    for number in np.random.default_rng(0).permutation(len(found))[:CHOSEN]:
        image, own, masks, overlaps = found[number]
        print("IoU", *(f"{overlap:.3f}" for overlap in overlaps))
        tiles += [tile(image, own, mask) for mask in (own, *masks)]
    contact_sheet(tiles, columns=2 * (1 + len(models))).save(out)
    print(f"means over the {len(found)} objects of >= {large:.0f} pixels that every model finds:")
    for number, path in enumerate(paths):
        mean = np.mean([overlaps[number] for *_, overlaps in found])
        contours = boundary_f([(masks[number], own) for _, own, masks, _ in found])
        told = "  ".join(f"{name} {value:.3f}" for name, value in contours.items())
        print(f"IoU {mean:.3f}  {told}  {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="the picture to write")
    parser.add_argument("models", nargs="+", help="saved models")
    parser.add_argument("--data", help="folder with val.json and images/; default: the shapes")
    arguments = parser.parse_args()
    main(arguments.out, arguments.models, arguments.data)
