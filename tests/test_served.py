"""Exported files in the place of a model: the way in and out of a file of one size, and errors."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pac_keras import __main__ as cli
from pac_keras import served
from pac_keras.data.image import Preprocessing, resize_image
from pac_keras.detections.paste import paste_mask
from pac_keras.structures import PADDING, Detections

METADATA = {
    "categories": [{"label": 0, "id": 17, "name": "cat"}],
    "input": {"height": 64, "width": 96},
    "resize": {"short_side": 50, "long_side": 90, "keep_ratio": True},
    "mask_threshold": 0.5,
}


@pytest.mark.parametrize(
    ("size", "keep_ratio", "expected"),
    [
        ((100, 100), True, (50, 50)),  # the short side
        ((100, 400), True, (23, 90)),  # the long side, rounded half up
        ((400, 100), True, (64, 16)),  # would be 90 high: the canvas
        ((10, 20), True, (45, 90)),  # enlarged, as in training
        ((1, 2000), True, (1, 90)),
        ((100, 400), False, (50, 90)),
        ((400, 100), False, (64, 50)),  # each side for itself
    ],
)
def test_a_picture_is_as_large_as_in_training_or_as_the_canvas(size, keep_ratio, expected):
    preprocessing = Preprocessing(50, 90, keep_ratio=keep_ratio)
    assert served.fitted_size(*size, (64, 96), preprocessing) == expected


def left_half(image, size):
    """What a network answers that finds a cat in the left half of each picture."""
    height, width = size[0]
    assert image.shape == (1, 64, 96, 3) and image.dtype == np.uint8
    assert not image[0, height:].any() and not image[0, :, width:].any()
    frames = np.asarray([[[0, 0, width / 2, height], [0, 0, 0, 0]]], "float32")
    scores = np.asarray([[0.75, 0.0]], "float32")
    labels, masks = np.asarray([[0, PADDING]], "int32"), np.ones((1, 2, 28, 28), "float32")
    return Detections(frames, labels, scores, scores, masks, frames)._asdict()


@pytest.fixture
def model():
    return served.ServedModel(METADATA, served._detect_on_canvas(left_half, METADATA))


def test_pictures_are_laid_out_at_the_top_left():
    image = np.random.default_rng(0).integers(0, 256, (100, 400, 3)).astype("uint8")
    inputs = served.lay_out(image, (64, 96), Preprocessing(50, 90))
    np.testing.assert_array_equal(inputs["size"], [[23, 90]])
    np.testing.assert_array_equal(inputs["image"][0, :23, :90], resize_image(image, (23, 90)))


def test_objects_come_back_in_the_pictures_own_pixels(model, tmp_path):
    Image.fromarray(np.full((100, 400, 3), 128, "uint8")).save(tmp_path / "a.png")
    found = served.predict_file(model, tmp_path / "a.png")
    np.testing.assert_allclose(found.boxes, [[0, 0, 200, 100]], rtol=1e-6)
    assert (found.names, found.size) == (("cat",), (100, 400))
    assert found.mask(0)[2:-2, 2:198].all() and not found.mask(0)[:, 200:].any()
    assert served.predict_file(model, tmp_path / "a.png", score_threshold=0.8).names == ()


def test_evaluate_asks_for_stored_pictures(model, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_load_model", lambda path: model)
    (tmp_path / "images").mkdir()
    left = np.zeros((30, 200), "uint8")
    left[:, :100] = 1
    rle = coco_mask.encode(np.asfortranarray(left))
    rle["counts"] = rle["counts"].decode()
    annotation = {"id": 1, "image_id": 7, "category_id": 17, "iscrowd": 0, "area": 3000}
    annotation |= {"bbox": [0, 0, 100, 30], "segmentation": rle}
    content = {
        "images": [{"id": 7, "file_name": "7.png", "height": 30, "width": 200}],
        "annotations": [annotation],
        "categories": [{"id": 17, "name": "cat"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    Image.fromarray(np.full((30, 200, 3), 128, "uint8")).save(tmp_path / "images" / "7.png")
    out = tmp_path / "metrics.json"
    assert cli.main(["evaluate", "m.onnx", "--data", str(tmp_path), "--out", str(out)]) == 0
    metrics = json.loads(out.read_text())
    assert metrics["mask"]["AP"] == metrics["box"]["AP"] == pytest.approx(1.0)


def test_drawn_masks_are_cut_out_and_pasted_back():
    masks = np.zeros((3, 9, 12), "uint8")
    masks[0, 2:7, 3:12] = np.random.default_rng(0).integers(0, 2, (5, 9))
    masks[1] = 1  # the third is empty
    parts, frames = served._cut_out(masks)
    for mask, part, frame in zip(masks, parts, frames, strict=True):
        np.testing.assert_array_equal(paste_mask(part, frame, (9, 12)), mask)


@pytest.mark.parametrize(
    ("package", "name", "command"),
    [
        ("onnxruntime", "m.onnx", "pip install onnxruntime"),
        ("ai_edge_litert", "m.tflite", "pip install ai-edge-litert"),
        ("tensorflow", "saved", "pip install tensorflow"),
    ],
)
def test_a_missing_package_is_named(package, name, command, tmp_path, monkeypatch, capsys):
    (tmp_path / "saved").mkdir()
    (tmp_path / name).touch()
    for known in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["evaluate", str(tmp_path / name), "--data", "shapes"]) == 2
    error = capsys.readouterr().err
    assert command in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite", "saved"])
def test_foreign_files_are_one_line(name, tmp_path, capsys):
    pytest.importorskip({"m.onnx": "onnxruntime", "m.tflite": "ai_edge_litert"}.get(name, "numpy"))
    path = tmp_path / name
    assert cli.main(["evaluate", str(tmp_path / "none.onnx"), "--data", "shapes"]) == 2
    assert "none.onnx: no such model file" in capsys.readouterr().err
    path.mkdir() if name == "saved" else path.write_bytes(b"no model at all")
    assert cli.main(["evaluate", str(path), "--data", "shapes"]) == 2
    error = capsys.readouterr().err
    assert f"{path}: " in error and error.count("\n") == 1
