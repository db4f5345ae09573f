"""Finds the objects in a picture with a file that export/tflite.py wrote.

    pip install ai-edge-litert pillow
    python litert_predict.py model.tflite photo.jpg --overlay found.png --json found.json

It needs ai-edge-litert, NumPy and Pillow alone, and is meant to be copied and changed. What the
application has to know (class names, how pictures are resized) is in the file itself: a .tflite
file may end with a zip archive, and metadata.json is in it (`unzip -p model.tflite metadata.json`).
"""

import argparse
import json
import sys
import time
import zipfile
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    sys.exit("ai-edge-litert is missing: pip install ai-edge-litert")

_COLORS = ((230, 60, 60), (60, 160, 60), (60, 90, 220), (220, 150, 30), (150, 60, 190))


class Objects(NamedTuple):
    """The objects of one picture, best first, in its own pixels; arrays of N rows.

    boxes: float32 `[N, 4]`, (x0, y0, x1, y1).
    labels: int32 `[N]`, rows of metadata["categories"].
    scores, box_scores: float32 `[N]`: how sure the mask is, and the box.
    masks: bool `[N, H, W]`.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    box_scores: np.ndarray
    masks: np.ndarray


class Detector:
    """A loaded file. `detector(image)` gives the `Objects` of a uint8 picture `[H, W, 3]`, RGB."""

    def __init__(self, path, threads=None):
        self.metadata = read_metadata(path)
        self.run = Interpreter(model_path=str(path), num_threads=threads).get_signature_runner()
        self.seconds = 0.0  # that the last run took

    def __call__(self, image, score_threshold=0.0):
        size, given = image.shape[:2], self.metadata["input"]
        canvas = given["height"], given["width"]
        new_size = fitted_size(*size, self.metadata["resize"], canvas)
        pixels = np.zeros((1, *canvas, 3), "uint8")
        pixels[0, : new_size[0], : new_size[1]] = resize(image, new_size)
        start = time.perf_counter()
        found = self.run(image=pixels, size=np.asarray([new_size], "int32"))
        self.seconds = time.perf_counter() - start
        found = {name: values[0] for name, values in found.items()}
        kept = (found["labels"] >= 0) & (found["scores"] >= score_threshold)
        rows = np.flatnonzero(kept)[np.argsort(-found["scores"][kept], kind="stable")]
        found = {name: values[rows] for name, values in found.items()}
        scale = np.float32([new_size[1] / size[1], new_size[0] / size[0]] * 2)
        frames, threshold = found["mask_frames"] / scale, self.metadata["mask_threshold"]
        masks = np.zeros((len(frames), *size), bool)
        for row, (mask, frame) in enumerate(zip(found["masks"], frames, strict=True)):
            paste(mask, frame, threshold, masks[row])
        boxes = np.clip(found["boxes"] / scale, 0, np.float32([size[1], size[0]] * 2))
        return Objects(boxes, found["labels"], found["scores"], found["box_scores"], masks)


def read_metadata(path):
    """The dict in metadata.json at the file's end."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path}: no metadata.json in it: not written by tflite.py") from error


def read_picture(path):
    """uint8 `[H, W, 3]`, RGB, turned as its EXIF orientation says."""
    with Image.open(path) as picture:
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def fitted_size(height, width, how, canvas):
    """(height, width) of a picture on the canvas: as the model was trained, or what fits."""
    sides = how["short_side"], how["long_side"]
    if not how["keep_ratio"]:
        wanted = sides if width > height else sides[::-1]
        return min(wanted[0], canvas[0]), min(wanted[1], canvas[1])
    scale = min(sides[1] / max(height, width), sides[0] / min(height, width))
    if int(height * scale + 0.5) > canvas[0] or int(width * scale + 0.5) > canvas[1]:
        scale = min(canvas[0] / height, canvas[1] / width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize(image, size):
    """uint8 `[h, w, 3]`: bilinear as in training. Pillow's resize smooths, which gives others."""
    mixed = image.astype("float32")
    for axis in (1, 0):
        old, new = mixed.shape[axis], size[axis]
        place = (np.arange(new, dtype="float32") + 0.5) * np.float32(old / new) - 0.5
        low = np.floor(place)
        shape = (-1, 1) if axis else (-1, 1, 1)
        fraction = (place - low).reshape(shape)
        start = np.take(mixed, np.maximum(low, 0).astype("int64"), axis)
        end = np.take(mixed, np.minimum(low + 1, old - 1).astype("int64"), axis)
        mixed = start + (end - start) * fraction
    return (mixed + 0.5).astype("uint8")


def paste(mask, frame, threshold, full):
    """Sets `full`, bool `[H, W]`, where `mask`, stretched over `frame`, reaches `threshold`."""
    height, width = full.shape
    rows, columns = _window(frame[1], frame[3], height), _window(frame[0], frame[2], width)
    down = _weights(frame[1], frame[3], rows, mask.shape[0])
    across = _weights(frame[0], frame[2], columns, mask.shape[1])
    full[rows, columns] = down @ mask @ across.T >= threshold


def _window(low, high, count):
    """Slice of the pixels from one before `low` to one behind `high`, within 0..count."""
    start = min(max(int(np.floor(low)) - 1, 0), count)
    return slice(start, max(min(int(np.ceil(high)) + 1, count), start))


def _weights(low, high, pixels, count):
    """float32 `[P, count]`: how much each of a mask's cells adds to each pixel along one axis."""
    low, high = float(low), float(high)
    centers = np.arange(pixels.start, pixels.stop) + 0.5
    place = (centers - low) / (high - low) if high > low else np.full(centers.shape, 0.5)
    distance = np.abs(place[:, None] * count - 0.5 - np.arange(count))
    return np.maximum(1.0 - distance, 0.0).astype("float32")


def overlay(image, objects, categories):
    """PIL picture with masks and boxes drawn over it."""
    mixed = image.astype("float32")
    for label, mask in zip(objects.labels, objects.masks, strict=True):
        mixed[mask] = 0.5 * mixed[mask] + 0.5 * np.float32(_COLORS[label % len(_COLORS)])
    picture = Image.fromarray(mixed.astype("uint8"))
    draw = ImageDraw.Draw(picture)
    for label, box, score in zip(objects.labels, objects.boxes, objects.scores, strict=True):
        color = _COLORS[label % len(_COLORS)]
        draw.rectangle([float(edge) for edge in box], outline=color)
        text = f"{categories[label]['name']} {score:.2f}"
        draw.text((float(box[0]) + 2, float(box[1]) + 1), text, fill=color)
    return picture


def as_json(objects, categories):
    """A list of dicts, one for each object; masks as COCO's uncompressed run lengths."""
    return [
        {
            "category_id": categories[label]["id"],
            "name": categories[label]["name"],
            "score": round(float(score), 6),
            "box": [round(float(edge), 3) for edge in box],
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
        }
        for label, score, box, mask in zip(
            objects.labels, objects.scores, objects.boxes, objects.masks, strict=True
        )
    ]


def run_lengths(mask):
    """Lengths of the runs of 0, 1, 0, ... down the columns of a bool `[H, W]` mask."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a .tflite file")
    parser.add_argument("picture", help="a picture file that Pillow reads")
    parser.add_argument("--overlay", default="found.png", help="picture to write")
    parser.add_argument("--json", default="found.json", help="list of objects to write")
    parser.add_argument("--score-threshold", type=float, default=0.3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    detector = Detector(options.model, options.threads)
    categories = detector.metadata["categories"]
    image = read_picture(options.picture)
    objects = detector(image, options.score_threshold)
    overlay(image, objects, categories).save(options.overlay)
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(as_json(objects, categories), file, ensure_ascii=False)
    print(f"{len(objects.labels)} objects in {1000 * detector.seconds:.0f} ms")


if __name__ == "__main__":
    main()
