"""The report's numbers, on data small enough to count by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from pac_keras.data.check import check_source, filled_box_ap
from pac_keras.data.coco import CocoSource
from pac_keras.data.shapes import ShapesSource

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
ELL = [10, 10, 20, 10, 20, 20, 30, 20, 30, 30, 10, 30]  # three quarters of the same box


def annotation(number, image_id, category_id, polygon=None, area=400, iscrowd=0):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [10, 10, 20, 20],
        "area": area,
        "iscrowd": iscrowd,
        "segmentation": [polygon] if polygon else [],
    }


@pytest.fixture
def folder(tmp_path):
    """Three pictures: two objects and a crowd, one object, none."""
    for name in "abc":
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / f"{name}.png")
    crowd = annotation(3, 1, 7, area=2000, iscrowd=1)
    crowd["segmentation"] = {"size": [40, 50], "counts": [0, 1000, 1000]}
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 40, "width": 50}
            for i, name in enumerate("abc", 1)
        ],
        "annotations": [
            annotation(1, 1, 7, SQUARE),
            annotation(2, 1, 9, ELL, area=300),
            crowd,
            annotation(4, 2, 7, SQUARE, area=1100),
            annotation(5, 2, 7, [1, 2, 3, 4]),
        ],
        "categories": [{"id": 9, "name": "ell"}, {"id": 7, "name": "square"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path


def test_filled_boxes_score_the_thresholds_below_their_fill(folder):
    source = CocoSource(folder / "truth.json", folder)
    # squares are found at all ten IoUs, the three-quarter ell at 0.50, 0.55 ... 0.75: six of ten
    assert filled_box_ap(source, progress=False) == pytest.approx((1.0 + 0.6) / 2, abs=1e-9)


def test_the_counts_are_those_of_the_json(folder):
    report = check_source(CocoSource(folder / "truth.json", folder), progress=False)
    assert (report.objects, report.crowd) == (3, 1)
    assert report.per_class == {"square": 2, "ell": 1}
    assert report.per_picture.tolist() == [2, 1, 0]
    assert report.areas == {"small": 2, "medium": 1, "large": 0}
    assert report.skipped == {"polygon with < 6 numbers": 1, "no polygon left": 1}
    assert (report.problems, report.occluded, report.semantic) == ((), None, {})
    assert report.num_semantic_classes == 3


def test_the_page_shows_every_number(folder):
    page = str(check_source(CocoSource(folder / "truth.json", folder), progress=False))
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert "pictures 3, 1 without objects" in lines
    assert "objects 3, and 1 crowd" in lines
    assert "objects per picture 0 to 2, mean 1.0" in lines
    assert "square 2" in lines
    assert "skipped annotations 1: no polygon left" in lines
    assert "mask AP of filled boxes 0.800" in lines


def test_unreadable_pictures_are_listed_by_name(folder):
    source = CocoSource(folder / "truth.json", folder)
    (folder / "b.png").write_bytes(b"no picture")
    report = check_source(source, progress=False)
    assert len(report.problems) == 1
    assert "b.png" in report.problems[0] and "b.png" in str(report)


def test_without_objects_the_ap_is_unknown(folder):
    content = json.loads((folder / "truth.json").read_text())
    (folder / "truth.json").write_text(json.dumps({**content, "annotations": []}))
    assert filled_box_ap(CocoSource(folder / "truth.json", folder), progress=False) == -1


def test_shapes_need_their_borders():
    report = check_source(ShapesSource("valid", 60), progress=False)
    assert report.filled_box_ap <= 0.15
    assert report.occluded >= 0.25
    assert report.objects == sum(report.per_class.values()) > 150
    assert sorted(report.semantic) == list(range(10))
    assert sum(report.semantic.values()) == pytest.approx(1)
    assert "occluded" in str(report)
