"""What tensorflow-datasets stored comes back exactly as the json gives it."""

import json
import shutil
import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from pycocotools import mask as coco_mask

from pac_keras.data.coco import CocoSource
from pac_keras.data.tfds_builder import TfdsSource, prepare

SIZES = {3: ("c.jpg", 40, 50), 12: ("sub.png", 33, 21), 700: ("z.jpg", 24, 64)}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def folder(tmp_path):
    """Polygons, both kinds of run lengths, a crowd, a picture without objects, semantic maps."""
    (tmp_path / "images").mkdir()
    (tmp_path / "stuff").mkdir()
    rng = np.random.default_rng(0)
    for name, height, width in SIZES.values():
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        labels = rng.integers(0, 182, (height, width)).astype(np.uint8)
        labels[0] = 255
        Image.fromarray(labels).save(tmp_path / "stuff" / f"{name.split('.')[0]}.png")
    mask = np.zeros((40, 50), np.uint8, order="F")
    mask[4:20, 7:31] = 1
    packed = coco_mask.encode(mask)["counts"].decode()
    third = [0.1 + 1 / 3, 2.5, 20, 2.7, 11.123456789012345, 18]
    shapes = [
        (3, 5, 0, [third, [30, 30, 40, 30, 40, 38]]),
        (3, 90, 0, {"size": [40, 50], "counts": packed}),
        (3, 5, 1, {"size": [40, 50], "counts": [100, 300, 1600]}),
        (700, 90, 0, [[1, 1, 60, 2, 50, 20, 3, 22]]),
        (700, 90, 0, [[1, 1, 60, 2]]),  # skipped
    ]
    content = {
        "images": [
            {"id": i, "file_name": name, "height": height, "width": width, "license": 4}
            for i, (name, height, width) in SIZES.items()
        ],
        "annotations": [
            {
                "id": 10 * number,
                "image_id": image_id,
                "category_id": category_id,
                "iscrowd": crowd,
                "area": 300.25,
                "bbox": [0.3, 1.7, 19.1, 16.2],
                "segmentation": shape,
            }
            for number, (image_id, category_id, crowd, shape) in enumerate(shapes, 1)
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 5, "name": "early"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path


def paths(folder):
    return folder / "truth.json", folder / "images", folder / "records"


def assert_same_sample(received, expected):
    assert received._fields == expected._fields
    for field in ("image", "boxes", "labels", "transform"):
        first, second = getattr(received, field), getattr(expected, field)
        assert first.dtype == second.dtype and first.shape == second.shape, field
        np.testing.assert_array_equal(first, second)
    assert (received.image_id, received.size) == (expected.image_id, expected.size)
    assert (received.semantic is None) == (expected.semantic is None)
    if expected.semantic is not None:
        assert received.semantic.dtype == expected.semantic.dtype
        np.testing.assert_array_equal(received.semantic, expected.semantic)
    for first, second in zip(received.segmentations, expected.segmentations, strict=True):
        assert first.rle == second.rle
        for points, others in zip(first.polygons, second.polygons, strict=True):
            assert points.dtype == others.dtype
            np.testing.assert_array_equal(points, others)


@pytest.mark.parametrize("with_stuff", [False, True])
def test_the_same_samples_come_out(folder, with_stuff):
    semantic = folder / "stuff" if with_stuff else None
    original = CocoSource(*paths(folder)[:2], semantic=semantic)
    expected, truth = [original[i] for i in range(len(original))], original.coco_json()
    assert [len(sample.labels) for sample in expected] == [3, 0, 1]
    prepare(*paths(folder), split="valid", semantic=semantic, progress=False)
    shutil.rmtree(folder / "images")  # nothing of the original is needed any more
    shutil.rmtree(folder / "stuff")
    (folder / "truth.json").unlink()
    stored = TfdsSource(folder / "records", "valid")
    assert len(stored) == len(expected) == 3
    for index, sample in enumerate(expected):
        assert_same_sample(stored[index], sample)
    assert stored.coco_json() == truth
    for field in ("categories", "num_semantic_classes", "image_ids", "sizes"):
        assert getattr(stored, field) == getattr(original, field), field
    for first, second in zip(stored.labels, original.labels, strict=True):
        assert first.dtype == second.dtype == "int32"
        np.testing.assert_array_equal(first, second)
    assert stored.skipped == dict(original.skipped)


def test_picture_files_are_stored_unchanged(folder):
    prepared = prepare(*paths(folder), progress=False)
    records = tfds.builder_from_directory(prepared).as_data_source("train")
    for record, (name, _, _) in zip(records, SIZES.values(), strict=True):
        assert record["image"] == (folder / "images" / name).read_bytes()
    assert list(prepared.glob("*.array_record*"))


def test_a_prepared_split_is_used_again(folder):
    (file,) = prepare(*paths(folder), progress=False).glob("*.array_record*")
    before = file.stat().st_mtime_ns
    prepare(*paths(folder), progress=False)
    assert file.stat().st_mtime_ns == before


def test_splits_lie_side_by_side(folder):
    prepare(*paths(folder), split="train", progress=False)
    prepare(*paths(folder), split="valid", limit=1, progress=False)
    assert len(TfdsSource(folder / "records", "train")) == 3
    assert len(TfdsSource(folder / "records", "valid")) == 1


def test_other_data_do_not_hide_behind_a_prepared_split(folder):
    prepare(*paths(folder), progress=False)
    json_path = folder / "truth.json"
    json_path.write_text(json_path.read_text().replace("300.25", "300.5"))
    with pytest.raises(FileExistsError, match=r"records.*prepared from"):
        prepare(*paths(folder), progress=False)


def test_an_unprepared_split_is_named(folder):
    with pytest.raises(FileNotFoundError, match="'valid'"):
        TfdsSource(folder / "records", "valid")


def test_a_missing_json_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        prepare(folder / "nowhere.json", *paths(folder)[1:], progress=False)


def test_a_damaged_picture_stops_the_preparation_and_leaves_no_split(folder):
    whole = (folder / "images" / "z.jpg").read_bytes()
    (folder / "images" / "z.jpg").write_bytes(whole[:300])
    with pytest.raises(ValueError, match=r"z\.jpg"):
        prepare(*paths(folder), progress=False)
    with pytest.raises(FileNotFoundError):
        TfdsSource(folder / "records", "train")
    (folder / "images" / "z.jpg").write_bytes(whole)
    prepare(*paths(folder), progress=False)
    assert len(TfdsSource(folder / "records", "train")) == 3
