"""Checks of a COCO json's records, and their shapes and boxes as numbers."""

import json as jsonlib
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from pac_keras.data.sample import Segmentation

_NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
# Of a coordinate, pixels: pycocotools lays out every pixel of a border, and crashes far beyond.
_LARGEST = 2**20


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


def degenerate(annotation, size):
    """Why nothing can be learnt from a checked annotation's box or area; None if all is well."""
    bbox = annotation["bbox"]
    if annotation.get("area", 1) <= 0:
        return "area <= 0"
    if bbox[2] < 1 or bbox[3] < 1:
        return "box narrower or lower than 1 pixel"
    left, top, right, bottom = corners(bbox, size)
    return "box outside the picture" if right <= left or bottom <= top else None


def check_numbers(where, annotation):
    """Raises a ValueError unless box, area and crowd flag are what COCO defines."""
    bbox, area, crowd = annotation["bbox"], annotation.get("area", 1), annotation.get("iscrowd", 0)
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_number, bbox))):
        raise ValueError(
            f"{where}: bbox must be 4 numbers of at most {_LARGEST}, got {str(bbox)[:60]}"
        )
    if not _is_number(area, _LARGEST**2):
        raise ValueError(f"{where}: area must be a finite number, got {str(area)[:60]}")
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise ValueError(f"{where}: iscrowd must be 0 or 1, got {repr(crowd)[:60]}")


def segmentation(where, shape, size):
    """`Segmentation` of a json's polygons or run lengths, checked, for a picture of that size."""
    if isinstance(shape, list):
        return Segmentation(polygons=tuple(_polygon(where, polygon) for polygon in shape))
    return Segmentation(rle=_compressed(where, shape, size))


def as_json(shape):
    """What a json holds for a `Segmentation`: polygons or compressed run lengths."""
    if shape.polygons:
        return [polygon.ravel().tolist() for polygon in shape.polygons]
    return {**shape.rle, "counts": shape.rle["counts"].decode()}


def _is_number(value, largest=_LARGEST):
    """Whether a json's value is a number within +-`largest`; nan is not."""
    return type(value) in (int, float) and -largest <= value <= largest


def _read_json(path):
    """The json's top level dict."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such json file")
    with open(path, encoding="utf-8-sig") as file:
        try:
            content = jsonlib.load(file)
        except (ValueError, RecursionError) as error:
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
        points = np.asarray(numbers)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: polygon must be pairs of numbers: {error}") from error
    if points.ndim != 1 or points.size % 2 or points.dtype.kind not in "iuf":
        raise ValueError(
            f"{where}: polygon must be pairs of numbers x, y, x, y, ..., got {str(numbers)[:60]}"
        )
    points = points.astype("float64")
    if not (np.abs(points) <= _LARGEST).all():  # nan is no such number either
        raise ValueError(f"{where}: polygon has a coordinate that is not within +-{_LARGEST}")
    return points.reshape(-1, 2)


def _compressed(where, rle, size):
    """pycocotools' compressed form of the json's run lengths, at the picture's size."""
    counts = rle.get("counts")
    if rle.get("size") != list(size):
        raise ValueError(
            f"{where}: run lengths have size {rle.get('size')!r}, the picture {list(size)}"
        )
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"{where}: run lengths must be integers >= 0, got {str(counts)[:60]}")
        _check_sum(where, sum(counts), size)
        return mask_utils.frPyObjects({"size": list(size), "counts": counts}, *size)
    if not isinstance(counts, str):
        raise ValueError(f"{where}: counts must be a list or a string, got {str(counts)[:60]}")
    _check_sum(where, _sum_of_counts(where, counts), size)
    return {"size": list(size), "counts": counts.encode()}


def _check_sum(where, total, size):
    if total != size[0] * size[1]:
        raise ValueError(
            f"{where}: run lengths add up to {total}, expected {size[0] * size[1]} pixels"
        )


def _sum_of_counts(where, text):
    """Pixels that compressed run lengths cover: pycocotools does not check before it writes them.

    A count is written in characters of 5 bits, lowest first, 32 = more follow, 16 in the last = the
    sign; from the fourth on as the difference to the last but one (maskApi.c, rleToString).
    """
    bits = np.frombuffer(text.encode(), "uint8").astype("int64") - 48
    last = np.flatnonzero(bits & 32 == 0)
    if not last.size or bits.min() < 0 or bits.max() > 63 or last[-1] != bits.size - 1:
        raise ValueError(f"{where}: counts are not compressed run lengths: {text[:60]!r}")
    first = np.concatenate([[0], last[:-1] + 1])
    if np.max(last - first) >= 7:  # more than 32 bits
        raise ValueError(f"{where}: counts are not compressed run lengths: {text[:60]!r}")
    place = 5 * (np.arange(bits.size) - np.repeat(first, last - first + 1))
    counts = np.add.reduceat((bits & 31) << place, first)
    counts -= np.where(bits[last] & 16, 32 << place[last], 0)
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    if counts.min() < 0:
        raise ValueError(f"{where}: a run length is negative in counts {text[:60]!r}")
    return int(counts.sum())
