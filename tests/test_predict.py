"""Prediction from pictures as people have them, with a model that finds a known rectangle."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from pac_keras.data.image import Preprocessing
from pac_keras.predict import Instances, picture_files, predict, upright_image
from pac_keras.structures import PADDING, Detections


class Model:
    """Finds one "cat" of score 0.9 in the left half of every picture and a "dog" of score 0.2."""

    num_classes, mask_threshold = 2, 0.5
    categories = ((4, "cat"), (7, "dog"))  # a model keeps plain tuples
    preprocessing = Preprocessing(short_side=40, long_side=100)

    def __init__(self):
        self.shapes = []

    def predict_on_batch(self, images):
        self.shapes.append(images.pixels.shape)
        height, width = images.sizes[0]
        frames = np.asarray(
            [[[0, 0, width / 2, height], [0, 0, width, height], [0, 0, 0, 0]]], "float32"
        )
        return Detections(
            boxes=frames,
            labels=np.asarray([[0, 1, PADDING]], "int32"),
            scores=np.asarray([[0.9, 0.2, 0.0]], "float32"),
            box_scores=np.asarray([[0.9, 0.2, 0.0]], "float32"),
            masks=np.ones((1, 3, 28, 28), "float32"),
            mask_frames=frames,
        )


def photo(height=20, width=30):
    """uint8 `[H, W, 3]` whose pixels all differ."""
    return np.arange(height * width * 3).reshape(height, width, 3).astype("uint8")


def encoded(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_boxes_and_masks_are_in_the_original_picture():
    model = Model()
    found = predict(model, photo(20, 30))
    assert isinstance(found, Instances)
    assert (found.size, found.names, found.file) == ((20, 30), ("cat",), "")
    np.testing.assert_allclose(found.boxes, [[0, 0, 15, 20]])
    expected = np.zeros((1, 20, 30), bool)
    expected[:, :, :15] = True
    np.testing.assert_array_equal(found.masks, expected)
    assert found.rle()[0]["size"] == [20, 30] and isinstance(found.rle()[0]["counts"], str)
    assert model.shapes == [(1, 64, 64, 3)]  # 40 x 60, to multiples of 32


def test_without_keep_ratio_each_axis_goes_back_by_its_own_scale():
    model = Model()
    model.preprocessing = Preprocessing(short_side=50, long_side=50, keep_ratio=False)
    for size in ((20, 30), (90, 8)):
        found = predict(model, photo(*size))
        np.testing.assert_allclose(found.boxes, [[0, 0, size[1] / 2, size[0]]], rtol=1e-6)
        assert (
            found.masks[:, :, : size[1] // 2].all() and not found.masks[:, :, size[1] // 2 :].any()
        )
    assert model.shapes == [(1, 64, 64, 3)] * 2


def test_score_threshold():
    assert predict(Model(), photo(), score_threshold=0.1).names == ("cat", "dog")
    assert predict(Model(), photo(), score_threshold=0.95).names == ()
    with pytest.raises(ValueError, match=r"score_threshold must be in \[0, 1\], got 30"):
        predict(Model(), photo(), score_threshold=30)


def test_every_kind_of_picture_is_the_same_picture(tmp_path):
    array = photo()
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(array))
    rgba = np.concatenate([array, np.full((20, 30, 1), 7, "uint8")], axis=2)
    for one in (path, str(path), encoded(array), Image.fromarray(array), array, rgba):
        np.testing.assert_array_equal(upright_image(one), array)
    grey = array[..., 0]
    for one in (grey, grey[..., None], Image.fromarray(grey), encoded(grey)):
        np.testing.assert_array_equal(upright_image(one), np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bits_keep_the_high_byte():
    deep = np.asarray([[0, 255, 256], [4660, 32768, 65535]], "uint16")
    expected = np.repeat(np.asarray([[0, 0, 1], [18, 128, 255]], "uint8")[..., None], 3, axis=2)
    for one in (encoded(deep), Image.fromarray(deep)):
        np.testing.assert_array_equal(upright_image(one), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation):
    data = encoded(photo(), exif=exif(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape == ((20, 30, 3) if orientation < 5 else (30, 20, 3))
    np.testing.assert_array_equal(upright_image(data), expected)
    np.testing.assert_array_equal(upright_image(Image.open(io.BytesIO(data))), expected)
    found = predict(Model(), data)
    assert found.size == expected.shape[:2]
    np.testing.assert_allclose(found.boxes, [[0, 0, expected.shape[1] / 2, expected.shape[0]]])


def test_unknown_orientation_is_ignored():
    np.testing.assert_array_equal(upright_image(encoded(photo(), exif=exif(99))), photo())


def test_folders_and_lists_give_lists_and_each_picture_its_own_canvas(tmp_path):
    for name, shape in (("b.JPG", (10, 20)), ("a.png", (30, 20)), ("notes.txt", None)):
        (tmp_path / name).write_bytes(encoded(photo(*shape)) if shape else b"no picture")
    (tmp_path / "c.png").mkdir()
    model = Model()
    found = predict(model, tmp_path)
    assert [one.file for one in found] == [str(tmp_path / "a.png"), str(tmp_path / "b.JPG")]
    assert [one.size for one in found] == [(30, 20), (10, 20)]
    assert model.shapes == [(1, 64, 64, 3), (1, 64, 96, 3)]
    mixed = predict(model, [photo(), tmp_path, encoded(photo(40, 8))])
    assert [one.size for one in mixed] == [(20, 30), (30, 20), (10, 20), (40, 8)]
    assert predict(model, []) == []


def test_a_single_pixel_is_a_picture():
    assert predict(Model(), photo(1, 1)).masks.shape == (1, 1, 1)


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(photo())[:-40]])
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png"):
        predict(Model(), path)


def test_missing_files_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        predict(Model(), tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="no pictures in it"):
        predict(Model(), tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        picture_files(tmp_path / "nowhere")


def test_a_model_without_preprocessing_is_refused():
    model = Model()
    model.preprocessing = None
    with pytest.raises(ValueError, match="knows no preprocessing"):
        predict(model, photo())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 4, 3)), r"expected uint8 \[H, W, 3\], got float64 \[4, 4, 3\]"),
        (np.zeros((2, 4, 4, 3), "uint8"), r"got uint8 \[2, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), "uint8"), r"got uint8 \[0, 4, 3\]"),
        (np.zeros((4, 4, 2), "uint8"), r"got uint8 \[4, 4, 2\]"),
        (3, "got int"),
    ],
)
def test_what_is_no_picture_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        predict(Model(), wrong)
