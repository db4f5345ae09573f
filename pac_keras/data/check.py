"""What a data set holds, in numbers, before anything is trained on it."""

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from pac_keras.data.progress import track
from pac_keras.data.sample import object_counts
from pac_keras.evaluation.coco import average_precision, class_names
from pac_keras.structures import IGNORED_PIXEL

_AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # COCO's, pixels
OCCLUDED = 0.1  # hidden share of the own area from which an object counts as occluded
_SHOWN_PROBLEMS = 10


class Report(NamedTuple):
    """The numbers of `check_source`; `str` is the page that `python -m pac_keras check` prints.

    objects, crowd: annotations that training uses.
    per_picture: objects without crowd that training uses in each picture, int `[pictures]`.
    per_class: {name: objects without crowd that the evaluator sees}.
    areas: {"small" | "medium" | "large": the same objects}, COCO's bounds.
    semantic: {class: share of the not ignored pixels}; empty without maps.
    skipped: {reason: annotations that cannot be used}.
    problems: one message for each picture that cannot be read.
    occluded: share of objects that others hide by `OCCLUDED` or more; None if not known.
    filled_box_ap: mask AP of perfect boxes filled solid; -1 without objects.
    """

    name: str
    num_semantic_classes: int
    objects: int
    crowd: int
    per_class: dict[str, int]
    per_picture: np.ndarray
    areas: dict[str, int]
    semantic: dict[int, float]
    skipped: dict[str, int]
    problems: tuple[str, ...]
    occluded: float | None
    filled_box_ap: float

    def __str__(self):
        return "\n".join(f"{title:<24}{text}".rstrip() for title, text in _lines(self))


def check_source(source, *, progress=True):
    """The `Report` of a source. Every picture is read once; those that cannot be are listed.

    Args:
        source: a `sample.Source`.
        progress: show bars with the remaining time.
    """
    truth = source.coco_json()
    semantic, problems = _read_all(source, progress)
    counts = object_counts(source)
    single = [a for a in truth["annotations"] if not a["iscrowd"]]
    classes = [a["category_id"] for a in single]
    names = class_names(truth["categories"])
    hidden = [a["occlusion"] for a in single if "occlusion" in a]
    areas = np.asarray([a["area"] for a in single])
    return Report(
        name=source.name,
        num_semantic_classes=source.num_semantic_classes,
        objects=int(counts[:, 0].sum()),
        crowd=int(counts[:, 1].sum()),
        per_class={name: classes.count(category_id) for category_id, name in names.items()},
        per_picture=counts[:, 0],
        areas={
            size: int(np.count_nonzero((areas >= low) & (areas < high)))
            for size, (low, high) in _AREAS.items()
        },
        semantic=semantic,
        skipped={reason: number for reason, number in source.skipped.items() if number},
        problems=problems,
        occluded=float(np.mean(np.asarray(hidden) >= OCCLUDED)) if hidden else None,
        filled_box_ap=_filled_box_ap(truth, source.name, progress),
    )


def filled_box_ap(source, *, progress=True):
    """Mask AP in [0, 1] that the ground-truth boxes score when they are filled solid; -1 if the
    source has no object. It says how much of the data set can be solved without any border."""
    return _filled_box_ap(source.coco_json(), source.name, progress)


def _filled_box_ap(truth, name, progress):
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    results = []
    for annotation in track(truth["annotations"], f"{name}: filled boxes", progress):
        if not annotation["iscrowd"]:
            box = np.asarray([annotation["bbox"]], np.float64)
            (filled,) = coco_mask.frPyObjects(box, *sizes[annotation["image_id"]])
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"],
                    "segmentation": filled,
                    "score": 1.0,
                }
            )
    return average_precision(truth, results, "mask")[0]["AP"]


def _read_all(source, progress):
    """({semantic class: share of pixels}, messages) after reading every picture."""
    pixels, problems = np.zeros(256, np.int64), []
    for index in track(range(len(source)), f"{source.name}: pictures", progress):
        try:
            sample = source[index]
        except (OSError, ValueError) as error:  # what unreadable files and bad fields raise
            problems.append(str(error))
            continue
        if sample.semantic is not None:
            pixels += np.bincount(sample.semantic.ravel(), minlength=256)
    pixels[IGNORED_PIXEL] = 0
    total = max(int(pixels.sum()), 1)
    return {int(k): float(pixels[k] / total) for k in np.flatnonzero(pixels)}, tuple(problems)


def _lines(report):
    """(title, text) of each line of the page."""
    per_picture = report.per_picture
    yield report.name, ""
    yield "pictures", f"{len(per_picture)}, {np.count_nonzero(per_picture == 0)} without objects"
    yield "objects", f"{report.objects}, and {report.crowd} crowd"
    if len(per_picture):
        mean, most = per_picture.mean(), per_picture.max()
        yield "objects per picture", f"{per_picture.min()} to {most}, mean {mean:.1f}"
    yield "classes", f"{len(report.per_class)}"
    for name, number in report.per_class.items():
        yield f"  {name}", f"{number}"
    yield "areas", ", ".join(f"{number} {size}" for size, number in report.areas.items())
    yield "semantic classes", _semantic_text(report)
    for reason, number in report.skipped.items():
        yield "skipped annotations", f"{number}: {reason}"
    yield "unreadable pictures", f"{len(report.problems)}"
    for message in report.problems[:_SHOWN_PROBLEMS]:
        yield "", message
    if report.occluded is not None:
        yield "occluded >= 10 %", f"{report.occluded:.1%} of the objects"
    yield "mask AP of filled boxes", f"{report.filled_box_ap:.3f}"


def _semantic_text(report):
    number = report.num_semantic_classes
    if number == 0:
        return "none: 8 bits do not hold the classes"
    if not report.semantic:
        return f"{number}, drawn from the objects"
    least, most = min(report.semantic.values()), max(report.semantic.values())
    return f"{number}, {len(report.semantic)} seen, with {least:.1%} to {most:.1%} of the pixels"
