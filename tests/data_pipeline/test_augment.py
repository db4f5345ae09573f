import numpy as np
import pytest

from pac_keras.data.augment import Augmentation, augment, flip, resize, resize_to_target
from pac_keras.data.image import Preprocessing
from pac_keras.data.sample import Sample, Segmentation


def sample():
    image = np.zeros((10, 20, 3), "uint8")
    image[2:6, 3:8] = 200
    corners = np.asarray([[3, 2], [8, 2], [8, 6], [3, 6]], "float64")
    return Sample(
        image=image,
        boxes=np.asarray([[3, 2, 8, 6]], "float32"),
        labels=np.asarray([0], "int32"),
        segmentations=(Segmentation((corners,)),),
        semantic=image[..., 0] // 200,
        image_id=1,
        size=(10, 20),
    )


def moved(sample, point):
    """A stored (x, y) in pixels of the sample's picture."""
    return (sample.transform[:, 0] * point + sample.transform[:, 1]).tolist()


def test_resize_scales_each_axis():
    large = resize(sample(), (30, 40))
    assert large.image.shape == (30, 40, 3)
    assert large.semantic.shape == (30, 40)
    assert large.boxes.tolist() == [[6, 6, 16, 18]]
    assert moved(large, (8, 6)) == [16, 18]
    assert large.size == (10, 20)
    assert large.segmentations[0] is not None
    np.testing.assert_array_equal(
        large.segmentations[0].polygons, sample().segmentations[0].polygons
    )


def test_boxes_are_clipped_to_the_picture():
    wide = sample()._replace(boxes=np.asarray([[-1, 5, 25, 10.2]], "float32"))
    assert resize(wide, (20, 40)).boxes.tolist() == [[0, 10, 40, 20]]


def test_flip_mirrors_everything():
    flipped = flip(sample())
    assert flipped.boxes.tolist() == [[12, 2, 17, 6]]
    assert (flipped.image[2:6, 12:17] == 200).all()
    assert flipped.image.sum() == sample().image.sum()
    np.testing.assert_array_equal(flipped.semantic, flipped.image[..., 0] // 200)
    assert moved(flipped, (3, 2)) == [17, 2]


def test_flip_after_resize_and_twice():
    large = resize(sample(), (20, 50))
    assert moved(flip(large), (8, 6)) == [50 - 20, 12]
    again = flip(flip(large))
    for field in ("image", "boxes", "semantic", "transform"):
        np.testing.assert_array_equal(getattr(again, field), getattr(large, field))


def test_augment_flips_and_draws_the_short_side():
    plain = Preprocessing(short_side=20, long_side=100)
    sure = augment(sample(), plain, Augmentation(flip=1.0), np.random.default_rng(0))
    np.testing.assert_array_equal(sure.image, flip(resize_to_target(sample(), plain)).image)
    never = Augmentation(flip=0.0, short_sides=(10, 20, 30))
    random = np.random.default_rng(0)
    heights = [augment(sample(), plain, never, random).image.shape[0] for _ in range(60)]
    assert set(heights) == {10, 20, 30}
    chance = Augmentation(flip=0.25)
    flips = [augment(sample(), plain, chance, random).transform[0, 0] < 0 for _ in range(400)]
    assert 70 < sum(flips) < 130  # 100 expected, deviation 8.7


@pytest.mark.parametrize(
    ("low", "high", "long", "size", "limit"),
    [
        (640, 800, 1333, (48, 64), (800, 1067)),
        (640, 800, 1333, (32, 64), (667, 1333)),  # the long side decides from 667 on
        (800, 1024, 2048, (32, 64), (1024, 2048)),  # Cityscapes
    ],
)
def test_short_sides_of_a_range(low, high, long, size, limit, monkeypatch):
    """Every whole number of the papers' ranges, the long side limited."""
    monkeypatch.setattr("pac_keras.data.augment.resize_image", lambda image, size: np.empty(size))
    sides = Augmentation(short_sides=tuple(range(low, high + 1)))
    preprocessing = Preprocessing(short_side=high, long_side=long)
    stored = sample()._replace(image=np.zeros((*size, 3), "uint8"), semantic=None)
    random = np.random.default_rng(0)
    drawn = [augment(stored, preprocessing, sides, random).image.shape for _ in range(3000)]
    assert {height for height, _ in drawn} == set(range(low, limit[0] + 1))
    assert max(drawn) == limit and min(drawn) == (low, int(low * size[1] / size[0] + 0.5))
