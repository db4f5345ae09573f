"""The built-in data set: COCO-like pictures of overlapping shapes, made in memory from a seed."""

from functools import cached_property

import numpy as np
from pycocotools import mask as coco_mask

from pac_keras.data.batch import Augmentation, Dataset
from pac_keras.data.image import Preprocessing
from pac_keras.data.sample import Category, Sample, Segmentation
from pac_keras.data.scenes import STUFF, THINGS, draw_scene, tight_box

_SPLITS = ("train", "valid")
_MIN_SIZE = 64  # pixels; below, strokes are under 3 pixels


def shapes(
    *,
    training,
    batch_size,
    count=None,
    size=128,
    seed=0,
    augmentation=None,
    max_objects=None,
    frame=(112, 112),
):
    """`Dataset` of `count` pictures of the train split (default 2000), or of valid (200).

    Pictures are `size` x `size` and are not resized; training flips them at random.

    Args:
        training: the train split, shuffled and augmented; otherwise the valid split, in order.
        batch_size: pictures in a batch.
        seed: of the pictures, of shuffling and of augmentation.
        augmentation, max_objects, frame: see `Dataset`.
    """
    split, usual = ("train", 2000) if training else ("valid", 200)
    source = ShapesSource(split, usual if count is None else count, size=size, seed=seed)
    return Dataset(
        source,
        training=training,
        batch_size=batch_size,
        preprocessing=Preprocessing(short_side=size, long_side=size),
        augmentation=Augmentation() if augmentation is None else augmentation,
        max_objects=max_objects,
        frame=frame,
        seed=seed,
    )


class ShapesSource:
    """`count` pictures, each a function of (seed, split, index) alone: a `sample.Source`.

    The first pictures of a longer source are those of a shorter one. Things are the six outlines
    `scenes.THINGS`; the semantic map has them as 0..5 and the four patterns `scenes.STUFF` behind
    them as 6..9, and no ignored pixel. Ground-truth masks are the visible parts.

    Args:
        split: "train" or "valid": disjoint random streams.
        count: number of pictures, >= 1.
        size: side of the pictures in pixels, >= 64.
        seed: >= 0.
    """

    categories = tuple(Category(number + 1, name) for number, name in enumerate(THINGS))
    semantic_names = THINGS + STUFF
    num_semantic_classes = len(THINGS + STUFF)

    def __init__(self, split, count, size=128, seed=0):
        if split not in _SPLITS:
            raise ValueError(f"shapes: split must be one of {_SPLITS}, got {split!r}")
        for name, value, least in (
            ("count", count, 1),
            ("size", size, _MIN_SIZE),
            ("seed", seed, 0),
        ):
            if value != int(value) or value < least:
                raise ValueError(f"shapes: {name} must be a whole number >= {least}, got {value!r}")
        self.split, self.count, self.size, self.seed = split, count, size, seed
        self.name = f"shapes/{split} (seed {seed})"
        self.image_ids = range(count)
        self.sizes = [(size, size)] * count
        self.skipped = {}

    def __len__(self):
        """Number of pictures."""
        return self.count

    def __getitem__(self, index):
        """The `Sample` of picture `index`, objects from back to front."""
        scene = self.scene(index)
        boxes = [tight_box(mask) for mask in scene.masks]
        return Sample(
            image=scene.image,
            boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
            labels=scene.labels,
            segmentations=tuple(Segmentation(rle=_encode(mask)) for mask in scene.masks),
            semantic=scene.semantic,
            image_id=self.image_ids[index],
            size=(self.size, self.size),
        )

    def scene(self, index):
        """The `Scene` of picture `index`: also how much of each object is hidden."""
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name}: picture {index} of {self.count}")
        stream = np.random.SeedSequence([self.seed, _SPLITS.index(self.split), int(index)])
        return draw_scene(self.size, np.random.Generator(np.random.PCG64(stream)))

    @cached_property
    def labels(self):
        """int32 labels of each picture's objects. Draws every picture."""
        labels = [[] for _ in range(self.count)]
        for annotation in self._annotations:
            labels[annotation["image_id"]].append(annotation["category_id"] - 1)
        return [np.asarray(row, "int32") for row in labels]

    def coco_json(self):
        """The ground truth as a COCO dict; its annotations also have `occlusion`, the hidden
        share of the object's own area."""
        images = [
            {"id": i, "height": self.size, "width": self.size, "file_name": f"{self.split}_{i}.png"}
            for i in self.image_ids
        ]
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        annotations = [dict(annotation) for annotation in self._annotations]
        return {"images": images, "annotations": annotations, "categories": categories}

    @cached_property
    def _annotations(self):
        annotations = []
        for image_id in self.image_ids:
            scene = self.scene(image_id)
            for label, mask, hidden in zip(scene.labels, scene.masks, scene.occlusion, strict=True):
                # pycocotools takes id 0 for "no match"
                annotations.append(_annotation(len(annotations) + 1, image_id, label, mask, hidden))
        return annotations


def _annotation(number, image_id, label, mask, hidden):
    """One object as COCO writes it, run lengths as text."""
    x0, y0, x1, y1 = (float(edge) for edge in tight_box(mask))
    rle = _encode(mask)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": ShapesSource.categories[label].id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": float(np.count_nonzero(mask)),
        "iscrowd": 0,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "occlusion": float(hidden),
    }


def _encode(mask):
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))
