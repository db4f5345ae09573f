"""A source in memory, and data sets of it."""

import numpy as np

from pac_keras.data import Dataset, Preprocessing, Sample, Segmentation

PLAIN = Preprocessing(short_side=32, long_side=64, mean=(0, 0, 0), std=(1, 1, 1))


def rectangle(box):
    x0, y0, x1, y1 = box
    return Segmentation((np.asarray([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], "float64"),))


class ListSource:
    """A source in memory: pictures of the given sizes, each with boxes and labels."""

    name = "list"
    categories = ("a", "b")
    num_semantic_classes = 3

    def __init__(self, sizes, objects):
        self.sizes = sizes
        self.objects = objects
        self.image_ids = list(range(100, 100 + len(sizes)))
        self.labels = [np.asarray([label for _, label in rows], "int32") for rows in objects]

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        rows = self.objects[index]
        return Sample(
            image=np.full((*self.sizes[index], 3), index + 1, "uint8"),
            boxes=np.asarray([box for box, _ in rows], "float32").reshape(-1, 4),
            labels=np.asarray([label for _, label in rows], "int32"),
            segmentations=tuple(rectangle(box) for box, _ in rows),
            semantic=None,
            image_id=self.image_ids[index],
            size=self.sizes[index],
        )


ONE = [((4, 6, 20, 26), 1)]


def dataset(sizes, objects=None, **options):
    options = {"training": False, "batch_size": 2, "preprocessing": PLAIN, **options}
    return Dataset(ListSource(sizes, objects or [ONE] * len(sizes)), **options)


def ids(batches):
    return [batch.ground_truth.image_ids.tolist() for batch in batches]
