"""LVIS v1's json, which differs from COCO's."""

import numpy as np
import pytest

from pac_keras.data import CocoSource, coco


def test_lvis_names_its_files_by_url(write_coco):
    def change(content):
        for picture, name in zip(content["images"], ("seven.png", "three.png"), strict=True):
            del picture["file_name"]
            picture["coco_url"] = f"http://images.cocodataset.org/images/{name}"
        content["images"][0]["not_exhaustive_category_ids"] = [5]
        for row in content["annotations"]:
            del row["iscrowd"]

    json, folder = write_coco(change)
    source = CocoSource(json, folder.parent)
    assert source[1].image.shape == (40, 60, 3)
    assert source[1].labels.tolist() == [1, 0]
    three, seven = source.coco_json()["images"]
    assert (three["file_name"], seven["file_name"]) == ("images/three.png", "images/seven.png")
    assert seven["not_exhaustive_category_ids"] == [5]
    with pytest.raises(FileNotFoundError, match=r"picture 3: .*images/images/three\.png"):
        CocoSource(json, folder)


def test_a_url_does_not_replace_a_file_name(write_coco):
    def change(content):
        for picture in content["images"]:
            picture["coco_url"] = "http://images.cocodataset.org/train2017/none.png"

    json, folder = write_coco(change)
    assert CocoSource(json, folder)[1].image.shape == (40, 60, 3)


def test_more_classes_than_a_semantic_map_holds(write_coco):
    def change(content, classes):
        content["categories"] += [{"id": 1000 + k, "name": f"{k}"} for k in range(classes - 2)]

    json, folder = write_coco(lambda content: change(content, 254))
    data = coco(json, folder, training=False, batch_size=1)
    assert data.num_semantic_classes == 255
    assert set(np.unique(next(iter(data)).ground_truth.semantic)) == {1, 254, 255}
    json, folder = write_coco(lambda content: change(content, 255))
    data = coco(json, folder, training=False, batch_size=1)
    assert (data.num_classes, data.num_semantic_classes) == (255, 0)
    assert (next(iter(data)).ground_truth.semantic == 255).all()
