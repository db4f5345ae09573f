"""Evaluation of pictures that were resized without keeping the aspect."""

import numpy as np
from pycocotools import mask as mask_utils

from pac_keras.data import Dataset, Preprocessing
from pac_keras.data.sample import Category
from pac_keras.detections.paste import truth_as_detections
from pac_keras.evaluation.coco import detect, evaluate_dataset
from tests.data_pipeline.list_source import ListSource

SIZES = [(32, 80), (70, 40), (48, 48)]
BOX = (6, 4, 30, 24)


class Source(ListSource):
    categories = (Category(3, "a"), Category(8, "b"))

    def coco_json(self):
        x0, y0, x1, y1 = BOX
        box = [x0, y0, x1 - x0, y1 - y0]
        each = [
            {"id": key, "image_id": key, "category_id": 8, "iscrowd": 0, "bbox": box}
            | {"area": box[2] * box[3], "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}
            for key in self.image_ids
        ]
        images = [
            {"id": key, "height": height, "width": width}
            for key, (height, width) in zip(self.image_ids, self.sizes, strict=True)
        ]
        categories = [{"id": one.id, "name": one.name} for one in self.categories]
        return {"images": images, "annotations": each, "categories": categories}


class Oracle:
    """Answers the ground truth of the batches of `data`, in their order."""

    num_classes, categories, mask_threshold = 2, None, 0.5

    def __init__(self, data):
        self.answers = [truth_as_detections(batch.ground_truth) for batch in data]

    def predict_on_batch(self, images):
        assert (images.sizes == 64).all()
        return self.answers.pop(0)


def test_perfect_answers_are_perfect_in_the_original_pictures():
    square = Preprocessing(64, 64, keep_ratio=False)
    source = Source(SIZES, [[(BOX, 1)]] * len(SIZES))
    data = Dataset(source, training=False, batch_size=2, preprocessing=square)
    boxes, masks = detect(Oracle(data), data, progress=False)
    for found in boxes:
        np.testing.assert_allclose(found["bbox"], [6, 4, 24, 20], atol=1e-5)
    for found, size in zip(masks, SIZES, strict=True):
        drawn = mask_utils.decode(found["segmentation"])
        expected = np.zeros(size)
        expected[4:24, 6:30] = 1
        assert np.abs(drawn - expected).sum() <= 0.03 * expected.sum()
    metrics = evaluate_dataset(Oracle(data), data, progress=False)
    assert metrics["box"]["AP"] == metrics["mask"]["AP"] == 1.0
