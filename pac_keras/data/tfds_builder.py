"""COCO-format data prepared once by tensorflow-datasets: few large ArrayRecord files for many.

Nothing is downloaded, and tensorflow itself is neither needed to prepare nor to read back.
"""

import hashlib
import io
import json as jsonlib
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from pac_keras.data.coco import CocoSource
from pac_keras.data.image import read_image
from pac_keras.data.progress import track
from pac_keras.data.sample import Category, Sample, Segmentation


def prepare(json, images, data_dir, *, split="train", semantic=None, limit=None, progress=True):
    """The folder of the prepared split, `data_dir/{split}/coco_records/1.1.0`.

    A second call with the same json, folders and limit finds it there and does nothing.

    Args:
        json, images, semantic, limit: see `CocoSource`.
        data_dir: folder to write into; splits lie side by side in it.
        split: name of the split, such as "train" or "valid".
        progress: show a bar with the remaining time.
    Raises:
        FileExistsError: the split is there already, prepared from something else.
        FileNotFoundError, ValueError: as `CocoSource`; every picture is read and checked.
    """
    origin = {
        "json": str(Path(json).resolve()),
        "sha256": hashlib.sha256(_json_bytes(json)).hexdigest(),
        "images": str(Path(images).resolve()),
        "semantic": None if semantic is None else str(Path(semantic).resolve()),
        "limit": limit,
    }
    folder = _folder(data_dir, split)
    if folder.is_dir():
        found = _builder(folder).info.metadata["origin"]
        if found != origin:
            raise FileExistsError(
                f"{folder}: holds data prepared from {found}, expected {origin}; delete that "
                "folder or choose another data_dir"
            )
        return folder
    source = CocoSource(json, images, semantic=semantic, limit=limit)
    builder = CocoRecords(source, origin, split, progress, data_dir=Path(data_dir) / split)
    tfds.disable_progress_bar()  # ours knows how long it takes
    try:
        with tempfile.TemporaryDirectory() as downloads:  # tfds wants the folder all the same
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                download_dir=downloads,
            )
    finally:
        tfds.enable_progress_bar()
    return folder


class TfdsSource:
    """A `sample.Source` of what `prepare` wrote: the Samples of the `CocoSource` it was made from.

    Args:
        data_dir, split: as given to `prepare`. The original json and pictures are not needed.
    Raises:
        FileNotFoundError: the split was not prepared there.
    """

    def __init__(self, data_dir, split="train"):
        folder = _folder(data_dir, split)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no prepared split {split!r}; call `prepare` first")
        builder = _builder(folder)
        about = builder.info.metadata
        self.name = str(folder)
        self.categories = tuple(Category(*category) for category in about["categories"])
        self.num_semantic_classes = about["num_semantic_classes"]
        self.skipped = about["skipped"]
        self.image_ids = about["image_ids"]
        self.sizes = [tuple(size) for size in about["sizes"]]
        self.labels = [np.asarray(labels, "int32") for labels in about["labels"]]
        self._records = builder.as_data_source(split)

    def __len__(self):
        """Number of pictures."""
        return len(self.image_ids)

    def __getitem__(self, index):
        """The `Sample` of picture `index`."""
        record = self._records[index]
        semantic = record["semantic"]
        return Sample(
            image=read_image(record["image"]),
            boxes=record["boxes"],
            labels=record["labels"],
            segmentations=tuple(map(_parse_segmentation, jsonlib.loads(record["segmentations"]))),
            semantic=np.asarray(Image.open(io.BytesIO(semantic))) if semantic else None,
            image_id=self.image_ids[index],
            size=self.sizes[index],
        )

    def coco_json(self):
        """The ground truth as a COCO dict, as the `CocoSource` gives it. Reads every record."""
        truth = {"info": {}, "images": [], "annotations": []}
        for index in range(len(self)):
            record = self._records[index]
            truth["images"].append(jsonlib.loads(record["picture"]))
            truth["annotations"] += jsonlib.loads(record["annotations"])
        return {**truth, "categories": [category._asdict() for category in self.categories]}


class CocoRecords(tfds.core.GeneratorBasedBuilder):
    """One record per picture, in ascending image id.

    image: the picture file's bytes, unchanged. boxes, labels: as in `Sample`. segmentations,
    picture, annotations: JSON text: the Sample's shapes, the picture's record in the COCO json, and
    its annotations as the evaluator sees them. semantic: PNG of the semantic map, or empty.
    """

    VERSION = tfds.core.Version("1.1.0")
    url_infos = None  # no downloads; tfds 4.9.10 looks for checksums through a package it lacks

    def __init__(self, source, origin, split, progress, **kwargs):
        self._source, self._origin = source, origin
        self._split, self._progress = split, progress
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        source = self._source
        about = {
            "origin": self._origin,
            "categories": [list(category) for category in source.categories],
            "num_semantic_classes": source.num_semantic_classes,
            "skipped": dict(source.skipped),
            "image_ids": list(source.image_ids),
            "sizes": [list(size) for size in source.sizes],
            "labels": [labels.tolist() for labels in source.labels],
        }
        features = {
            "image": tfds.features.Scalar(dtype=np.object_),
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            "labels": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "segmentations": tfds.features.Text(),
            "picture": tfds.features.Text(),
            "annotations": tfds.features.Text(),
            "semantic": tfds.features.Scalar(dtype=np.object_),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="A COCO json and its pictures",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(about),
            disable_shuffling=True,  # record i is picture i
        )

    def _split_generators(self, dl_manager):
        return {self._split: self._generate_examples()}

    def _generate_examples(self):
        source, truth = self._source, self._source.coco_json()
        annotations = {picture["id"]: [] for picture in truth["images"]}
        for annotation in truth["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        for index in track(range(len(source)), f"preparing {self._split}", self._progress):
            sample, picture = source[index], truth["images"][index]
            yield (
                index,
                {
                    "image": (source.folder / picture["file_name"]).read_bytes(),
                    "boxes": sample.boxes,
                    "labels": sample.labels,
                    "segmentations": jsonlib.dumps(
                        [_write_segmentation(shape) for shape in sample.segmentations]
                    ),
                    "picture": jsonlib.dumps(picture),
                    "annotations": jsonlib.dumps(annotations[picture["id"]]),
                    "semantic": b"" if sample.semantic is None else _png(sample.semantic),
                },
            )


def _folder(data_dir, split):
    return Path(data_dir) / split / CocoRecords.name / str(CocoRecords.VERSION)


def _builder(folder):
    return tfds.builder_from_directory(folder)


def _json_bytes(path):
    """The json file's bytes; a missing file is `CocoSource`'s to report."""
    return Path(path).read_bytes() if Path(path).is_file() else b""


def _write_segmentation(shape):
    """A `Segmentation` as JSON can hold it; floats keep every bit."""
    if shape.polygons:
        return [polygon.tolist() for polygon in shape.polygons]
    return {"size": list(shape.rle["size"]), "counts": shape.rle["counts"].decode()}


def _parse_segmentation(stored):
    """The `Segmentation` that `_write_segmentation` wrote."""
    if isinstance(stored, list):
        return Segmentation(polygons=tuple(np.asarray(polygon, "float64") for polygon in stored))
    return Segmentation(rle={"size": stored["size"], "counts": stored["counts"].encode()})


def _png(semantic):
    file = io.BytesIO()
    Image.fromarray(semantic).save(file, format="PNG")
    return file.getvalue()
