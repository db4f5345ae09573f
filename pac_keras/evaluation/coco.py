"""COCO average precision of boxes and masks, on the original picture's scale."""

import contextlib
import io

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pac_keras.data.progress import track
from pac_keras.detections.paste import coco_results, picture
from pac_keras.evaluation.boundary import boundary_f, matched_masks

# pycocotools' order of its twelve numbers: AP and AR over IoU 0.50:0.05:0.95 unless one IoU is
# named; s, m, l are objects of area < 32^2, up to 96^2, and above; AR1 is with 1 result a picture.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
METRICS += ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KINDS = {"box": "bbox", "mask": "segm", "boundary": "boundary"}  # ours -> the evaluator's


def evaluate_dataset(model, dataset, boundary=False, *, progress=True):
    """Metrics of `model` on every picture of `dataset`, as `coco_metrics` returns them.

    Args:
        model: has `predict_on_batch`, `num_classes`, `mask_threshold`.
        dataset: `data.batch.Dataset` with training=False.
        boundary: also boundary AP and F (slower).
        progress: show a bar with the remaining time.
    Raises:
        ValueError: a training data set, another number of classes, or a picture that the data set
            gives twice or never.
    """
    box_results, mask_results = detect(model, dataset, progress=progress)
    ground_truth = dataset.source.coco_json()
    return coco_metrics(
        ground_truth,
        box_results,
        mask_results,
        image_ids=dataset.source.image_ids,
        boundary=boundary,
    )


def detect(model, dataset, *, progress=True):
    """COCO results of every picture of `dataset`: (list for "bbox", list for "segm")."""
    _check(model, dataset)
    original = dict(zip(dataset.source.image_ids, dataset.source.sizes, strict=True))
    category_ids = [category.id for category in dataset.categories]
    box_results, mask_results, seen = [], [], set()
    for batch in track(dataset, "Evaluation", progress):
        detections = model.predict_on_batch(batch.images)
        for index, image_id in enumerate(np.asarray(batch.ground_truth.image_ids).tolist()):
            if image_id in seen:
                raise ValueError(f"{dataset.source.name}: picture {image_id} comes twice")
            seen.add(image_id)
            boxes, masks = coco_results(
                picture(detections, index),
                np.asarray(batch.images.sizes)[index] / np.asarray(original[image_id]),
                tuple(original[image_id]),
                image_id=image_id,
                category_ids=category_ids,
                threshold=model.mask_threshold,
            )
            box_results += boxes
            mask_results += masks
    if missing := set(original) - seen:
        raise ValueError(
            f"{dataset.source.name}: {len(missing)} of {len(original)} pictures did not come, "
            f"the first is {min(missing)}"
        )
    return box_results, mask_results


def coco_metrics(ground_truth, box_results, mask_results, *, image_ids=None, boundary=False):
    """{"box": numbers, "mask": numbers, "per_class": {name: {"box": AP, "mask": AP}}}.

    Numbers are fractions of 1 under the names in `METRICS`; -1 is COCO's sign for "the ground truth
    has no such object". `boundary` adds the same under "boundary", and there "F_1px" and "F_3px" of
    `boundary_f` over the pairs that mask AP matches at IoU 0.50.

    Args:
        ground_truth: COCO dict.
        box_results, mask_results: COCO results with "bbox" and with "segmentation"; may be empty.
        image_ids: only these pictures; None = all.
    """
    metrics, per_class = {}, {category["id"]: {} for category in ground_truth["categories"]}
    results = {"box": box_results, "mask": mask_results}
    if boundary:
        results["boundary"] = mask_results
    for kind, records in results.items():
        evaluator = _evaluate(ground_truth, records, kind, image_ids=image_ids)
        metrics[kind] = _numbers(evaluator)
        for category_id, value in _class_ap(evaluator).items():
            per_class[category_id][kind] = value
        if boundary and kind == "mask":
            contour_numbers = boundary_f(matched_masks(evaluator))
        del evaluator  # two at a time would double the memory
    if boundary:
        metrics["boundary"] |= contour_numbers
    names = class_names(ground_truth["categories"])
    metrics["per_class"] = {names[category_id]: found for category_id, found in per_class.items()}
    return metrics


def average_precision(ground_truth, results, kind, *, image_ids=None, class_agnostic=False):
    """({metric: number}, {category id: AP}) of one kind: "box", "mask" or "boundary".

    Neither the ground truth nor the results are changed. Raises ValueError for a result of a
    picture or category that the ground truth does not have.
    """
    evaluator = _evaluate(
        ground_truth, results, kind, image_ids=image_ids, class_agnostic=class_agnostic
    )
    return _numbers(evaluator), {} if class_agnostic else _class_ap(evaluator)


def class_names(categories):
    """{id: name} of COCO categories; a name that occurs twice gets its id behind it."""
    names = [category["name"] for category in categories]
    return {
        category["id"]: name if names.count(name) == 1 else f"{name} ({category['id']})"
        for category, name in zip(categories, names, strict=True)
    }


def _evaluate(ground_truth, results, kind, *, image_ids=None, class_agnostic=False):
    """The evaluator of `kind` after its run."""
    _check_results(ground_truth, results, kind)
    index_class, evaluator_class = _evaluator_classes(kind)
    with contextlib.redirect_stdout(io.StringIO()):  # the evaluator reports each step by print
        truth = _index(index_class, ground_truth, ground_truth["annotations"])
        found = _index(index_class, ground_truth, _completed(results, kind))
        evaluator = evaluator_class(truth, found, KINDS[kind])
        if image_ids is not None:
            evaluator.params.imgIds = sorted(image_ids)
        evaluator.params.useCats = int(not class_agnostic)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _numbers(evaluator):
    """{metric: number} of `METRICS`."""
    return dict(zip(METRICS, map(float, evaluator.stats), strict=True))


def _class_ap(evaluator):
    """{category id: AP}."""
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], all areas
    return {c: _mean_known(precision[:, :, k]) for k, c in enumerate(evaluator.params.catIds)}


def _evaluator_classes(kind):
    if kind != "boundary":
        return COCO, COCOeval
    from faster_coco_eval import COCO as FastCOCO
    from faster_coco_eval import COCOeval_faster

    return FastCOCO, COCOeval_faster


def _index(index_class, ground_truth, annotations):
    """The evaluator's index over copies, since it writes into the records that it gets.

    Annotations are numbered anew from 1: pycocotools takes a match with id 0 for no match.
    """
    numbered = enumerate(annotations, start=1)
    index = index_class()
    index.dataset = {
        "info": {},
        "images": [dict(image) for image in ground_truth["images"]],
        "categories": [dict(category) for category in ground_truth["categories"]],
        "annotations": [{"iscrowd": 0, **one, "id": number} for number, one in numbered],
    }
    index.createIndex()
    return index


def _completed(results, kind):
    """Results with the area and box that the evaluator expects; a mask's area is its pixels."""
    completed = []
    for result in results:
        if kind == "box":
            box = result["bbox"]
            area = box[2] * box[3]
        else:
            area = float(coco_mask.area(result["segmentation"]))
            box = coco_mask.toBbox(result["segmentation"]).tolist()
        completed.append({**result, "bbox": box, "area": area})
    return completed


def _mean_known(precision):
    """Mean of the entries that are not -1, or -1: AP of one class."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


def _check_results(ground_truth, results, kind):
    field = "bbox" if kind == "box" else "segmentation"
    image_ids = {image["id"] for image in ground_truth["images"]}
    category_ids = {category["id"] for category in ground_truth["categories"]}
    for number, result in enumerate(results):
        if field not in result:
            raise ValueError(f"result {number} has no '{field}', only {sorted(result)}")
        if result["image_id"] not in image_ids:
            raise ValueError(f"result {number}: no picture with id {result['image_id']}")
        if result["category_id"] not in category_ids:
            raise ValueError(f"result {number}: no category with id {result['category_id']}")


def _check(model, dataset):
    name = dataset.source.name
    if dataset.training:
        raise ValueError(f"{name}: evaluation needs a data set with training=False")
    if model.num_classes != dataset.num_classes:
        raise ValueError(
            f"{name} has {dataset.num_classes} classes, the model has {model.num_classes}"
        )
    if model.categories:
        expected = [name for _, name in model.categories]
        received = [name for _, name in dataset.categories]
        if expected != received:
            first = next(k for k in range(len(expected)) if expected[k] != received[k])
            raise ValueError(
                f"{name}: class {first} is '{received[first]}', in the model '{expected[first]}'"
            )
