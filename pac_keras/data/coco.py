"""COCO-format data: a json and a folder of pictures."""

from collections import Counter
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from pac_keras.data import stuff
from pac_keras.data.annotations import (
    as_json,
    check_numbers,
    corners,
    degenerate,
    read_records,
    segmentation,
)
from pac_keras.data.augment import Augmentation
from pac_keras.data.batch import Dataset
from pac_keras.data.frames import run_lengths
from pac_keras.data.image import MAX_PIXELS, Preprocessing, exif_orientation, read_image
from pac_keras.data.sample import Category, Sample, drawn_semantic_classes
from pac_keras.structures import CROWD

_INT32 = 2**31 - 1
_LONGEST_NAME = 255  # of a file; the system refuses to look for longer ones


def coco(
    json,
    images,
    *,
    training,
    batch_size,
    semantic=None,
    limit=None,
    preprocessing=Preprocessing(),  # noqa: B008 (immutable)
    augmentation=Augmentation(),  # noqa: B008
    max_objects=None,
    frame=(112, 112),
    repeat_threshold=None,
    on_bad_image="raise",
    seed=0,
):
    """`Dataset` of a COCO json; see `CocoSource` and `batch.Dataset` for the arguments."""
    source = CocoSource(json, images, semantic=semantic, limit=limit)
    return Dataset(
        source,
        training=training,
        batch_size=batch_size,
        preprocessing=preprocessing,
        augmentation=augmentation,
        max_objects=max_objects,
        frame=frame,
        repeat_threshold=repeat_threshold,
        on_bad_image=on_bad_image,
        seed=seed,
    )


def coco_folder(folder, split, *, training, batch_size, **options):
    """`coco` of a folder that holds `{split}.json` (or `instances_{split}.json`) and `images/`.

    Raises:
        FileNotFoundError: neither json is there; both names are given.
    """
    names = [Path(folder) / f"{split}.json", Path(folder) / f"instances_{split}.json"]
    json = next((name for name in names if name.is_file()), None)
    if json is None:
        raise FileNotFoundError(f"{folder}: expected {names[0].name} or {names[1].name}")
    images = Path(folder) / "images"
    return coco(json, images, training=training, batch_size=batch_size, **options)


class CocoSource:
    """A `sample.Source` of a COCO json and its pictures; the pictures stay on disk.

    Args:
        json: path of the annotations.
        images: folder that the json's `file_name`s are relative to; of LVIS v1, which has none,
            the folder of train2017/ and val2017/.
        semantic: folder of COCO-stuff pixel maps, or None.
        limit: only so many pictures, those with the lowest ids.
        ids: only these image ids.

    Boxes are the json's, clipped to the picture. Annotations that COCO itself contains and that
    cannot be trained on are left out and counted in `skipped`, {reason: count}. `coco_json` keeps
    those of them that have a shape, so that AP is that of the official evaluator.

    Raises:
        FileNotFoundError: the json or a picture is missing.
        ValueError: naming file, id and field, of anything that is not as COCO defines it.
    """

    def __init__(self, json, images, *, semantic=None, limit=None, ids=None):
        self.name = str(json)
        self.folder = Path(images)
        self.semantic = semantic
        self.skipped = Counter()
        records = read_records(json)
        self.categories = tuple(
            self._category(key, category["name"])
            for key, category in sorted(records["categories"].items())
        )
        self._known = {category.id: label for label, category in enumerate(self.categories)}
        things = len(self.categories)
        self.num_semantic_classes = (
            drawn_semantic_classes(things) if semantic is None else stuff.NUM_CLASSES
        )
        self._pictures = self._choose_pictures(records["images"], limit, ids)
        self.image_ids = [picture["id"] for picture in self._pictures]
        self.sizes = [(picture["height"], picture["width"]) for picture in self._pictures]
        self._annotations, self._left_out = self._sort_annotations(records)
        self.labels = [
            np.asarray([self._label(annotation) for annotation in annotations], "int32")
            for annotations in self._annotations
        ]

    def __len__(self):
        return len(self._pictures)

    def __getitem__(self, index):
        """The `Sample` of picture `index`. Raises as the class does."""
        picture, annotations = self._pictures[index], self._annotations[index]
        size = self.sizes[index]
        image = self._read_picture(picture)
        boxes = [corners(annotation["bbox"], size) for annotation in annotations]
        path = Path(picture["file_name"])
        return Sample(
            image=image,
            boxes=np.asarray(boxes, "float32").reshape(-1, 4),
            labels=self.labels[index],
            segmentations=tuple(annotation["segmentation"] for annotation in annotations),
            semantic=self.semantic
            and stuff.read_map(Path(self.semantic) / f"{path.stem}.png", size),
            image_id=picture["id"],
            size=size,
        )

    def coco_json(self):
        """See `sample.Source`. Annotation ids are the json's, unless one is < 1: then 1, 2, ...
        (pycocotools takes the id 0 for "no match")."""
        annotations = []
        for picture, kept, left_out in zip(
            self._pictures, self._annotations, self._left_out, strict=True
        ):
            size = picture["height"], picture["width"]
            for annotation in sorted(kept + left_out, key=lambda record: record["id"]):
                annotations.append(self._official(annotation, size))
        if any(annotation["id"] < 1 for annotation in annotations):
            for number, annotation in enumerate(annotations, 1):
                annotation["id"] = number
        return {
            "info": {},
            "images": [dict(picture) for picture in self._pictures],
            "annotations": annotations,
            "categories": [category._asdict() for category in self.categories],
        }

    def _category(self, key, name):
        if not isinstance(name, str) or not name:
            raise ValueError(f"{self.name}: category {key}: name must be a text, got {name!r}")
        return Category(key, name)

    def _label(self, annotation):
        return CROWD if annotation.get("iscrowd", 0) else self._known[annotation["category_id"]]

    def _official(self, annotation, size):
        """The annotation as pycocotools' evaluator wants it."""
        shape = annotation["segmentation"]
        crowd = int(annotation.get("iscrowd", 0))
        record = {**annotation, "iscrowd": crowd, "segmentation": as_json(shape)}
        if "area" not in record:
            record["area"] = float(mask_utils.area(run_lengths(shape, size)))
        return record

    def _choose_pictures(self, pictures, limit, ids):
        """The wanted picture records in ascending id, each with its file in place."""
        if ids is not None:
            unknown = sorted(set(ids) - set(pictures))
            if unknown:
                raise ValueError(f"{self.name}: no picture has the id {unknown[0]} (of `ids`)")
        chosen = sorted(pictures if ids is None else set(ids))[:limit]
        for key in chosen:
            self._check_picture(f"{self.name}: picture {key}", pictures[key])
        return [pictures[key] for key in chosen]

    def _check_picture(self, where, picture):
        """Raises unless the record is as COCO defines it and its file is in place."""
        if abs(picture["id"]) > _INT32:
            raise ValueError(f"{where}: id beyond 32 bits, expected at most {_INT32}")
        for field in ("height", "width"):
            if type(picture[field]) is not int or picture[field] < 1:
                raise ValueError(
                    f"{where}: {field} must be a positive integer, got {picture[field]!r}"
                )
        if picture["height"] * picture["width"] > MAX_PIXELS:
            raise ValueError(f"{where}: height x width must be at most {MAX_PIXELS} pixels")
        name = picture["file_name"]
        if not isinstance(name, str):
            raise ValueError(f"{where}: file_name must be a string, got {name!r}")
        path = self.folder / name
        if len(path.name) > _LONGEST_NAME or not path.is_file():
            raise FileNotFoundError(f"{where}: no such picture file: {str(path)[:300]}")

    def _sort_annotations(self, records):
        """Per picture: the annotations to train on, and those left out that have a shape."""
        rows = {key: row for row, key in enumerate(self.image_ids)}
        kept, left_out = [[] for _ in rows], [[] for _ in rows]
        for key, annotation in sorted(records["annotations"].items()):
            where, image_id = f"{self.name}: annotation {key}", annotation["image_id"]
            category = annotation["category_id"]
            if type(image_id) is not int or image_id not in records["images"]:
                raise ValueError(f"{where}: image_id {image_id!r} is not among the images")
            if type(category) is not int or category not in self._known:
                raise ValueError(
                    f"{where}: category_id {category!r} is not among "
                    f"the categories {str(sorted(self._known))[:200]}"
                )
            if image_id not in rows:
                continue
            check_numbers(where, annotation)
            row = rows[image_id]
            shape = self._usable_shape(where, annotation)
            if shape is None:
                continue
            shape = segmentation(where, shape, self.sizes[row])
            annotation = {**annotation, "segmentation": shape}
            reason = degenerate(annotation, self.sizes[row])
            if reason:
                self.skipped[reason] += 1
            (left_out if reason else kept)[row].append(annotation)
        return kept, left_out

    def _usable_shape(self, where, annotation):
        """The json's segmentation without polygons that have no area; None if nothing is left."""
        shape = annotation.get("segmentation")
        if not shape:
            self.skipped["no segmentation"] += 1
            return None
        if isinstance(shape, dict):
            return shape
        if not isinstance(shape, list) or not all(isinstance(polygon, list) for polygon in shape):
            raise ValueError(
                f"{where}: segmentation must be a list of polygons (lists of x, y, x, y, ...) or "
                f"run lengths, got {str(shape)[:60]}"
            )
        polygons = [p for p in shape if len(p) >= 6 or any(isinstance(x, list) for x in p)]
        if len(polygons) < len(shape):
            self.skipped["polygon with < 6 numbers"] += len(shape) - len(polygons)
        if not polygons:
            self.skipped["no polygon left"] += 1
        return polygons or None

    def _read_picture(self, picture):
        """The stored pixels, checked against the json's size."""
        path = self.folder / picture["file_name"]
        image = read_image(path)
        height, width = picture["height"], picture["width"]
        if image.shape[:2] == (height, width):
            return image
        orientation = exif_orientation(path)
        hint = (
            f"; its EXIF orientation is {orientation} and is not applied here: store the picture "
            "upright, or give its size and annotations as stored"
            if orientation != 1
            else ""
        )
        raise ValueError(
            f"{path}: {self.name} says height {height}, width {width} for picture "
            f"{picture['id']}, the file has height {image.shape[0]}, width {image.shape[1]}{hint}"
        )
