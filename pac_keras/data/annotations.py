"""Checks of a COCO json's records, and their shapes and boxes as numbers."""

import json as jsonlib
import math
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from pac_keras.data.sample import Segmentation

_NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_records(path):
    """{"images" | "annotations" | "categories": {id: record}} of a COCO json.

    LVIS v1 names no files: there the name is the last two parts of `coco_url`, folder and file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not json, not COCO, a needed key is missing, or an id is no unique integer.
    """
    content = _read_json(path)
    return {kind: _records(str(path), content, kind) for kind in _NEEDED}


def corners(bbox, size):
    """COCO's (x, y, width, height) as corners inside the picture."""
    left, top, width, height = bbox
    right, bottom = min(left + width, size[1]), min(top + height, size[0])
    return max(left, 0), max(top, 0), right, bottom


def degenerate(where, annotation, size):
    """Why nothing can be learnt from the annotation's box or area; None if all is well."""
    bbox = annotation["bbox"]
    if not (
        isinstance(bbox, list)
        and len(bbox) == 4
        and all(isinstance(side, int | float) and math.isfinite(side) for side in bbox)
    ):
        raise ValueError(f"{where}: bbox must be 4 finite numbers, got {bbox!r}")
    area = annotation.get("area", 1)
    if not isinstance(area, int | float) or not math.isfinite(area):
        raise ValueError(f"{where}: area must be a finite number, got {area!r}")
    if area <= 0:
        return "area <= 0"
    if bbox[2] < 1 or bbox[3] < 1:
        return "box narrower or lower than 1 pixel"
    left, top, right, bottom = corners(bbox, size)
    return "box outside the picture" if right <= left or bottom <= top else None


def segmentation(where, annotation, size):
    """`Segmentation` of a checked annotation."""
    shape = annotation["segmentation"]
    if isinstance(shape, list):
        return Segmentation(polygons=tuple(_polygon(where, polygon) for polygon in shape))
    return Segmentation(rle=_compressed(where, shape, size))


def _read_json(path):
    """The json's top level dict."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such json file")
    with open(path, encoding="utf-8") as file:
        try:
            content = jsonlib.load(file)
        except ValueError as error:
            raise ValueError(f"{path}: not valid json: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a COCO dict, got a {type(content).__name__}")
    return content


def _records(name, content, kind):
    """{id: record} of one of the json's lists, every needed key present, ids unique."""
    if not isinstance(content.get(kind), list):
        raise ValueError(f"{name}: key {kind!r} is missing or no list; found {sorted(content)}")
    records = {}
    for number, record in enumerate(content[kind]):
        if not isinstance(record, dict):
            raise ValueError(f"{name}: {kind}[{number}] must be a dict, got {record!r}")
        if kind == "images":
            record = _with_file_name(record)
        for key in _NEEDED[kind]:
            if key not in record:
                raise ValueError(
                    f"{name}: {kind}[{number}] (id {record.get('id')!r}) has no {key!r}"
                )
        if type(record["id"]) is not int or record["id"] in records:
            raise ValueError(
                f"{name}: {kind}[{number}]: id must be a unique integer, got {record['id']!r}"
            )
        records[record["id"]] = record
    return records


def _with_file_name(picture):
    """The record of a picture, its `file_name` taken from `coco_url` where it has none."""
    url = picture.get("coco_url")
    if "file_name" in picture or not isinstance(url, str):
        return picture
    return {**picture, "file_name": "/".join(url.split("/")[-2:])}


def _polygon(where, numbers):
    """float64 `[N, 2]` of x, y, x, y, ..."""
    try:
        points = np.asarray(numbers, "float64").reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: polygon must be pairs of numbers: {error}") from error
    if not np.isfinite(points).all():
        raise ValueError(f"{where}: polygon has a coordinate that is not finite")
    return points


def _compressed(where, rle, size):
    """pycocotools' compressed form of the json's run lengths, at the picture's size."""
    counts = rle.get("counts")
    if rle.get("size") != list(size):
        raise ValueError(
            f"{where}: run lengths have size {rle.get('size')!r}, the picture {list(size)}"
        )
    if isinstance(counts, list):
        if sum(counts) != size[0] * size[1]:
            raise ValueError(
                f"{where}: run lengths add up to {sum(counts)}, expected {size[0] * size[1]} pixels"
            )
        return mask_utils.frPyObjects({"size": list(size), "counts": counts}, *size)
    if not isinstance(counts, str | bytes):
        raise ValueError(f"{where}: counts must be a list or a string, got {counts!r}")
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}
