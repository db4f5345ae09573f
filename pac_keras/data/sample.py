"""One picture with its objects (`Sample`), and what every data set offers (`Source`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


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
    num_semantic_classes: of `Sample.semantic`; K + 1 where it is None (K = background).
    image_ids: per picture, ascending.
    sizes: (height, width) of each stored picture.
    object_counts: (objects, crowd objects) of each picture.
    """

    name: str
    categories: tuple[Category, ...]
    num_semantic_classes: int
    image_ids: Sequence[int]
    sizes: Sequence[tuple[int, int]]
    object_counts: Sequence[tuple[int, int]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def coco_json(self) -> dict:
        """The ground truth as a COCO dict {"images", "annotations", "categories"}: original ids,
        stored pixels, crowd included. Every annotation has id, image_id, category_id, bbox, area,
        iscrowd and a segmentation that pycocotools reads."""
        ...
