import io

import numpy as np
import pytest
from PIL import Image

from pac_keras.data import image as images
from pac_keras.data.image import Preprocessing


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # 640 * 800 / 480 = 1066.67
        ((640, 480), (1067, 800)),
        ((100, 1000), (133, 1333)),  # the long side decides: 133.3
        ((800, 1333), (800, 1333)),
        ((1, 5000), (1, 1333)),  # 0.27 rows become one
    ],
)
def test_target_size(size, expected):
    assert images.target_size(*size, Preprocessing()) == expected


def test_target_size_rounds_half_up():
    assert images.target_size(10, 15, Preprocessing(short_side=5, long_side=100)) == (5, 8)  # 7.5


@pytest.mark.parametrize(
    ("size", "sides", "expected"),
    [
        ((480, 640), (550, 550), (550, 550)),
        ((640, 480), (550, 550), (550, 550)),
        ((1, 5000), (550, 550), (550, 550)),
        ((480, 640), (300, 500), (300, 500)),  # short to short, long to long
        ((640, 480), (300, 500), (500, 300)),
        ((480, 480), (300, 500), (500, 300)),  # a square is taken for a portrait
    ],
)
def test_target_size_without_keep_ratio(size, sides, expected):
    assert images.target_size(*size, Preprocessing(*sides, keep_ratio=False)) == expected


def test_older_models_hold_one_number_less():
    """A .keras file stores the fields in order; those before keep_ratio came have five."""
    old = [64, 96, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 16]
    assert Preprocessing(*old) == Preprocessing(*old, keep_ratio=True)
    assert Preprocessing._fields[-1] == "keep_ratio"


def grey(*rows):
    return np.repeat(np.asarray(rows, "uint8")[..., None], 3, axis=2)


def test_resize_has_half_pixel_centres():
    wide = images.resize_image(grey([0, 40, 80, 120]), (1, 8))
    assert wide[0, :, 0].tolist() == [0, 10, 30, 50, 70, 90, 110, 120]
    tall = images.resize_image(grey([0], [40], [80], [120]), (8, 1))
    assert tall[:, 0, 1].tolist() == [0, 10, 30, 50, 70, 90, 110, 120]


def test_resize_down_looks_at_two_neighbours_only():
    small = images.resize_image(grey([0, 0, 0, 200, 0, 0]), (1, 2))  # centres 1 and 4
    assert small[0, :, 0].tolist() == [0, 0]
    small = images.resize_image(grey([10, 20, 30, 40]), (1, 2))  # centres 0.5 and 2.5
    assert small[0, :, 0].tolist() == [15, 35]


def test_resize_rounds_half_up():
    assert images.resize_image(grey([0, 1]), (1, 3))[0, :, 0].tolist() == [0, 1, 1]
    assert images.resize_image(grey([2, 3]), (1, 3))[0, :, 0].tolist() == [2, 3, 3]


def test_resize_window_goes_on_in_the_fill_colour():
    picture = grey([10, 20], [30, 40])
    wide = images.resize_window(picture, (-1, 0, 3, 1), (1, 4), (1.5, 2, 3))
    assert wide.tolist() == [[[2, 2, 3], [10] * 3, [20] * 3, [2, 2, 3]]]
    between = images.resize_window(picture, (1, 1, 3, 2), (1, 4), (0, 0, 0))  # 40 and nothing
    assert between[0, :, 0].tolist() == [40, 30, 10, 0]
    inside = images.resize_window(picture, (1, 0, 2, 2), (4, 1), (0, 0, 0))  # knows no neighbours
    assert inside[:, 0, 0].tolist() == [20, 25, 35, 40]
    for window in ((-9, -9, -4, -5), (2, 0, 4, 2), (0, -3, 2, 0), (-3, 5, 9, 6)):
        assert (images.resize_window(picture, window, (3, 3), (7, 7, 7)) == 7).all()
    labels = np.asarray([[1, 2], [3, 4]], "uint8")
    moved = images.resize_window_nearest(labels, (-1, 1, 2, 3), (2, 6), 255)
    assert moved.tolist() == [[255, 255, 3, 3, 4, 4], [255] * 6]


def test_resize_nearest_takes_the_value_at_the_centre():
    labels = np.asarray([[1, 2, 3, 4]], "uint8")
    assert images.resize_nearest(labels, (2, 8)).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]] * 2
    assert images.resize_nearest(labels, (1, 2)).tolist() == [[2, 4]]  # centres 1.0 and 3.0


def test_normalize_and_prepare():
    picture = np.full((2, 2, 3), 10, "uint8")
    plain = Preprocessing(short_side=4, long_side=9, mean=(10, 0, 4), std=(1, 5, 2))
    prepared = images.prepare(picture, plain)
    assert prepared.dtype == np.float32
    assert prepared.shape == (4, 4, 3)
    np.testing.assert_array_equal(prepared[3, 3], [0, 2, 3])


def test_canvas_and_pad_batch():
    assert images.canvas((800, 1333)) == (800, 1344)
    assert images.canvas((1, 33), 16) == (16, 48)
    pictures = [np.ones((2, 3, 3), "float32"), np.ones((4, 1, 3), "float32")]
    batch = images.pad_batch(pictures, (4, 8))
    assert batch.sizes.tolist() == [[2, 3], [4, 1]]
    assert batch.sizes.dtype == np.int32
    assert batch.pixels.shape == (2, 4, 8, 3)
    assert batch.pixels.sum() == 3 * (2 * 3 + 4 * 1)
    assert batch.pixels[0, :2, :3].min() == 1


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_bytes_and_path_give_the_same(tmp_path):
    data = encoded(Image.fromarray(grey([1, 2, 3])), "PNG")
    path = tmp_path / "with space ü.png"
    path.write_bytes(data)
    assert images.read_image(path).tolist() == images.read_image(data).tolist()
    assert images.read_image(str(path))[0, :, 2].tolist() == [1, 2, 3]


def test_modes_become_rgb():
    one = Image.fromarray(np.asarray([[0, 200]], "uint8"))
    assert images.read_image(encoded(one, "PNG"))[0].tolist() == [[0] * 3, [200] * 3]
    deep = Image.fromarray(np.asarray([[255, 256, 65535]], "uint16"))
    assert images.read_image(encoded(deep, "PNG"))[0, :, 0].tolist() == [0, 1, 255]
    glass = Image.new("RGBA", (1, 1), (10, 20, 30, 0))
    assert images.read_image(encoded(glass, "PNG")).tolist() == [[[10, 20, 30]]]


def test_exif_orientation_is_told_and_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert images.read_image(data).shape == (4, 8, 3)
    assert images.exif_orientation(data) == 6
    assert images.exif_orientation(encoded(Image.new("RGB", (8, 4)), "JPEG")) == 1


def test_what_is_no_picture_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg: no such picture"):
        images.read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(IsADirectoryError, match="found a folder"):
        images.read_image(tmp_path)
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"text\.jpg: not a readable picture"):
        images.read_image(text)
    cut = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), "uint8")
    cut.write_bytes(encoded(Image.fromarray(noise), "JPEG")[:-800])
    with pytest.raises(ValueError, match=r"cut\.jpg: unreadable picture.*truncated"):
        images.read_image(cut)


def test_size_is_limited(monkeypatch):
    data = encoded(Image.new("RGB", (20, 10)), "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 199)
    with pytest.raises(ValueError, match="too large: 20 x 10 pixels, expected at most 199"):
        images.read_image(data)
    monkeypatch.setattr(images, "MAX_PIXELS", 200)
    assert images.read_image(data).shape == (10, 20, 3)
