"""One picture with its objects (`Sample`), and what every data set offers (`Source`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from pac_keras.structures import CROWD, IGNORED_PIXEL


class Category(NamedTuple):
    """A class of things: its id in the user's json and its name."""

    id: int
    name: str


class Segmentation(NamedTuple):
    """The shape of one object in pixels of the *stored* picture, continuous coordinates.

    polygons: float64 arrays `[N, 2]` of (x, y), N >= 3; the shape is their union.
    rle: pycocotools' compressed run lengths {"size": [height, width], "counts": bytes}, at the
        stored picture's size. Used where `polygons` is empty.
    """

    polygons: tuple[np.ndarray, ...] = ()
    rle: dict[str, Any] | None = None


IDENTITY = np.asarray([[1.0, 0.0], [1.0, 0.0]], "float32")  # a Sample's transform at the start


class Sample(NamedTuple):
    """A picture and its objects, before padding. Augmentations map Sample to Sample.

    image: uint8 `[H, W, 3]`, RGB.
    boxes: float32 `[G, 4]`, xyxy in pixels of `image`.
    labels: int32 `[G]`, 0..K-1, or `structures.CROWD`.
    segmentations: G of them, in *stored* pixels: they are drawn last, through `transform`.
    semantic: uint8 `[H, W]`, class of each pixel of `image`, 255 = ignored; or None, and then the
        batch draws it from the objects.
    image_id: as in the json, within int32.
    size: (height, width) of the stored picture.
    transform: float32 `[2, 2]`, rows x and y, columns (scale, offset):
        x_image = scale * x_stored + offset. A flip has a negative scale.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    segmentations: tuple[Segmentation, ...]
    semantic: np.ndarray | None
    image_id: int
    size: tuple[int, int]
    transform: np.ndarray = IDENTITY


class Source(Protocol):
    """Random access to a data set; only `source[i]` reads pixels.

    name: for messages.
    categories: ascending id; label k is `categories[k]`.
    num_semantic_classes: of `Sample.semantic`; where it is None, `drawn_semantic_classes`.
    image_ids: per picture, ascending.
    sizes: (height, width) of each stored picture.
    labels: int array per picture, `Sample.labels`.
    """

    name: str
    categories: tuple[Category, ...]
    num_semantic_classes: int
    image_ids: Sequence[int]
    sizes: Sequence[tuple[int, int]]
    labels: Sequence[np.ndarray]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def coco_json(self) -> dict:
        """The ground truth as a COCO dict {"images", "annotations", "categories"}: original ids,
        stored pixels, crowd included. Every annotation has id, image_id, category_id, bbox, area,
        iscrowd and a segmentation that pycocotools reads."""
        ...


def object_counts(source):
    """int `[pictures, 2]`: (objects, crowd objects) of each picture of a source."""
    crowds = [np.count_nonzero(labels == CROWD) for labels in source.labels]
    objects = [len(labels) for labels in source.labels]
    return np.stack([np.subtract(objects, crowds), crowds], axis=1).astype("int64")


def drawn_semantic_classes(num_classes):
    """Classes of a semantic map that is drawn from the objects: K + 1 (K = background), or 0 where
    8 bits do not hold them (LVIS); then every pixel is ignored."""
    return num_classes + 1 if num_classes < IGNORED_PIXEL else 0
