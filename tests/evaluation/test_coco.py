"""COCO metrics against published numbers and hand-computed cases."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pac_keras.data.sample import Category
from pac_keras.detections import paste
from pac_keras.evaluation import coco
from pac_keras.structures import PADDING, Batch, Detections, GroundTruth, Images

TRUTH = Path(__file__).parents[1] / "data" / "evaluator_truth"
ONE = pytest.approx(1.0)  # the evaluator divides by recall + epsilon
CATEGORIES = (Category(3, "car"), Category(8, "dog"))


def read(name):
    return json.loads((TRUTH / name).read_text())


@pytest.fixture(scope="module")
def published():
    truth = read("instances_val2014_100.json")
    boxes = read("instances_val2014_fakebbox100_results.json")
    masks = read("instances_val2014_fakesegm100_results.json")
    return truth, boxes, masks, coco.coco_metrics(truth, boxes, masks)


@pytest.mark.parametrize(("kind", "iou_type"), [("box", "bbox"), ("mask", "segm")])
def test_published_numbers(published, kind, iou_type):
    truth, _, _, metrics = published
    expected = read("expected.json")[iou_type]
    assert metrics[kind] == pytest.approx(expected["stats"], abs=1e-12)
    rounded = {name: round(value, 3) for name, value in metrics[kind].items()}
    assert rounded == expected["published"]
    names = coco.class_names(truth["categories"])
    for category_id, (value, _) in expected["per_category_AP_AR100"].items():
        assert metrics["per_class"][names[int(category_id)]][kind] == pytest.approx(value)


def test_class_agnostic_numbers(published):
    truth, _, masks, _ = published
    numbers, per_class = coco.average_precision(truth, masks, "mask", class_agnostic=True)
    assert numbers == pytest.approx(read("expected.json")["segm_class_agnostic"]["stats"])
    assert per_class == {}


def test_boundary_is_at_most_mask_and_equal_for_small_objects(published):
    truth, _, masks, metrics = published
    numbers, _ = coco.average_precision(truth, masks, "boundary")
    assert 0 < numbers["AP"] < metrics["mask"]["AP"]
    assert numbers["APs"] == pytest.approx(metrics["mask"]["APs"])


def square(x0, y0, x1, y1, size):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def truth_json(objects, sizes):
    """COCO dict; `objects` are (image id, category id, (x0, y0, x1, y1))."""
    annotations = []
    for number, (image_id, category_id, (x0, y0, x1, y1)) in enumerate(objects):
        annotations.append(
            {
                "id": number,  # from 0, which pycocotools alone takes for "no match"
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "segmentation": paste.encode(square(x0, y0, x1, y1, sizes[image_id])),
            }
        )
    return {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()],
        "annotations": annotations,
        "categories": [category._asdict() for category in CATEGORIES],
    }


def answer(rows, count=4):
    """Detections of one picture: rows (frame, label, score, box score), padded to `count`."""
    found = Detections(
        boxes=np.zeros((1, count, 4), "float32"),
        labels=np.full((1, count), PADDING, "int32"),
        scores=np.zeros((1, count), "float32"),
        box_scores=np.zeros((1, count), "float32"),
        masks=np.ones((1, count, 8, 8), "float32"),
        mask_frames=np.zeros((1, count, 4), "float32"),
    )
    for row, (frame, label, score, box_score) in enumerate(rows):
        found.boxes[0, row] = found.mask_frames[0, row] = frame
        found.labels[0, row] = label
        found.scores[0, row], found.box_scores[0, row] = score, box_score
    return found


class FakeModel:
    """Answers in the order in which pictures come."""

    num_classes, mask_threshold = 2, 0.5
    categories = tuple(tuple(category) for category in CATEGORIES)  # as a model keeps them

    def __init__(self, answers):
        self.answers = iter(answers)

    def predict_on_batch(self, images):
        assert isinstance(images, Images)
        return next(self.answers)


class FakeDataset:
    """Pictures one by one, each enlarged by its own (y, x) scale."""

    training, categories, num_classes = False, CATEGORIES, 2

    def __init__(self, truth, scales):
        images = truth["images"]
        self.scales = scales
        self.source = SimpleNamespace(
            name="two pictures",
            image_ids=[image["id"] for image in images],
            sizes=[(image["height"], image["width"]) for image in images],
            coco_json=lambda: truth,
        )

    def __len__(self):
        return len(self.scales)

    def __iter__(self):
        for (image_id, scale), size in zip(self.scales, self.source.sizes, strict=False):
            network = np.asarray([[size[0] * scale[0], size[1] * scale[1]]], "int32")
            yield Batch(
                Images(np.zeros((1, 64, 64, 3), "float32"), network),
                GroundTruth(*[None] * 5, image_ids=np.asarray([image_id], "int32")),
            )


SIZES = {5: (20, 30), 9: (24, 16)}
OBJECTS = [(5, 3, (2, 4, 12, 10)), (9, 8, (0, 0, 8, 12))]


def evaluate(answers, objects=OBJECTS, scales=((5, (2.0, 2.0)), (9, (1.0, 2.0)))):
    dataset = FakeDataset(truth_json(objects, SIZES), scales)
    return coco.evaluate_dataset(FakeModel(answers), dataset, progress=False)


def test_perfect_answers_in_network_pixels_score_one():
    metrics = evaluate(
        [answer([((4, 8, 24, 20), 0, 0.9, 0.9)]), answer([((0, 0, 16, 12), 1, 0.8, 0.8)])]
    )
    assert metrics["box"]["AP"] == metrics["mask"]["AP"] == ONE
    assert metrics["per_class"] == {
        "car": {"box": ONE, "mask": ONE},
        "dog": {"box": ONE, "mask": ONE},
    }
    assert metrics["mask"]["APl"] == -1.0  # no large object


def test_masks_are_ranked_by_scores_and_boxes_by_box_scores():
    # One object; the miss has the better mask score and the worse box score, so that the precision
    # at full recall is 1/2 for masks and 1 for boxes. The other picture stays empty.
    right, miss = ((4, 8, 24, 20), 0, 0.5, 0.9), ((30, 30, 40, 38), 0, 0.8, 0.2)
    metrics = evaluate([answer([right, miss]), answer([])], objects=OBJECTS[:1])
    assert metrics["mask"]["AP"] == pytest.approx(0.5)
    assert metrics["box"]["AP"] == ONE
    assert metrics["per_class"]["dog"] == {"box": -1.0, "mask": -1.0}


def test_overlap_counts_by_threshold():
    # Mask 6 of 10 columns: IoU 0.6, so 3 of the ten thresholds (0.50, 0.55, 0.60) find it.
    metrics = evaluate([answer([((4, 8, 16, 20), 0, 0.9, 0.9)]), answer([])], objects=OBJECTS[:1])
    assert metrics["mask"]["AP"] == pytest.approx(0.3)
    assert metrics["mask"]["AP50"] == ONE and metrics["mask"]["AP75"] == 0.0


def test_no_result_gives_zero(capfd):
    metrics = evaluate([answer([]), answer([])])
    assert metrics["box"]["AP"] == metrics["mask"]["AP"] == 0.0
    assert metrics["per_class"]["car"] == {"box": 0.0, "mask": 0.0}
    assert capfd.readouterr() == ("", "")


def test_nothing_of_the_caller_is_changed():
    truth = truth_json(OBJECTS, SIZES)
    masks = [{"image_id": 5, "category_id": 3, "score": 0.5}]
    masks[0]["segmentation"] = paste.encode(square(2, 4, 12, 10, SIZES[5]))
    before = copy.deepcopy((truth, masks))
    numbers, _ = coco.average_precision(truth, masks, "mask")
    assert numbers["AP"] == pytest.approx(0.5)  # one class of two
    assert (truth, masks) == before


def test_image_ids_restrict_the_ground_truth():
    truth = truth_json(OBJECTS, SIZES)
    found = [{"image_id": 9, "category_id": 8, "score": 0.5, "bbox": [0, 0, 8, 12]}]
    assert coco.average_precision(truth, found, "box")[0]["AP"] == pytest.approx(0.5)
    assert coco.average_precision(truth, found, "box", image_ids=[9])[0]["AP"] == ONE


def test_names_that_occur_twice_stay_apart():
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 4, "name": "a"}]
    assert coco.class_names(categories) == {1: "a (1)", 2: "b", 4: "a (4)"}


def test_pictures_that_come_twice_or_never_are_errors():
    empty = [answer([]), answer([])]
    with pytest.raises(ValueError, match=r"two pictures: picture 5 comes twice"):
        evaluate(empty, scales=((5, (1.0, 1.0)), (5, (1.0, 1.0))))
    with pytest.raises(ValueError, match=r"1 of 2 pictures did not come, the first is 9"):
        evaluate(empty, scales=((5, (1.0, 1.0)),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": True}, "training=False"),
        ({"num_classes": 3}, "has 3 classes, the model has 2"),
        (
            {"categories": (CATEGORIES[0], Category(8, "cat"))},
            "class 1 is 'cat', in the model 'dog'",
        ),
    ],
)
def test_unsuitable_data_are_refused(change, message):
    dataset = FakeDataset(truth_json(OBJECTS, SIZES), ())
    for name, value in change.items():
        setattr(dataset, name, value)
    with pytest.raises(ValueError, match=message):
        coco.evaluate_dataset(FakeModel([]), dataset, progress=False)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}, "no picture with id 1"),
        ({"image_id": 5, "category_id": 4, "bbox": [0, 0, 1, 1]}, "no category with id 4"),
        ({"image_id": 5, "category_id": 3, "segmentation": {}}, "result 0 has no 'bbox'"),
    ],
)
def test_results_that_do_not_belong_are_refused(result, message):
    with pytest.raises(ValueError, match=message):
        coco.average_precision(truth_json(OBJECTS, SIZES), [{**result, "score": 1.0}], "box")
