"""Large scale jitter: all of the picture smaller, or a part of it larger, masks included."""

import numpy as np
import pytest
from list_source import dataset

from pac_keras.data import Augmentation, Preprocessing, Sample, Segmentation
from pac_keras.data.augment import augment, jittered_window
from pac_keras.data.collate import Layout, collate

PLAIN = Preprocessing(40, 60, mean=(0, 0, 0), std=(1, 1, 1))


def sample():
    """A picture of 80 x 120 whose object, a triangle, is drawn white."""
    corners = np.asarray([[20, 10], [100, 40], [30, 70]], "float64")
    x, y = np.meshgrid(np.arange(120) + 0.5, np.arange(80) + 0.5)
    inside = np.ones((80, 120), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0
    return Sample(
        image=np.repeat(255 * inside[..., None], 3, axis=2).astype("uint8"),
        boxes=np.asarray([[20, 10, 100, 70]], "float32"),
        labels=np.asarray([0], "int32"),
        segmentations=(Segmentation((corners,)),),
        semantic=inside.astype("uint8"),
        image_id=1,
        size=(80, 120),
    )


def test_window_and_size_by_hand():
    random = np.random.default_rng(0)
    assert jittered_window((80, 120), (40, 60), (0.5, 0.5), random) == ((0, 0, 120, 80), (20, 30))
    assert jittered_window((80, 120), (40, 60), (1.0, 1.0), random) == ((0, 0, 120, 80), (40, 60))
    windows = [jittered_window((80, 120), (40, 60), (2.0, 2.0), random) for _ in range(500)]
    assert {size for _, size in windows} == {(40, 60)}
    corners = np.asarray([window for window, _ in windows])
    assert (corners[:, 2:] - corners[:, :2] == (60, 40)).all()
    assert corners[:, 0].min() == 0 and corners[:, 2].max() == 120
    assert corners[:, 1].min() == 0 and corners[:, 3].max() == 80


@pytest.mark.parametrize("seed", range(20))
def test_masks_and_semantic_map_follow_the_pixels(seed):
    how = Augmentation(jitter=(0.4, 2.0))
    found = augment(sample(), PLAIN, how, np.random.default_rng(seed))
    height, width = found.image.shape[:2]
    assert height <= 40 and width <= 60
    white = found.image[..., 0] > 127
    assert np.mean(white != found.semantic) < 0.03  # nearest and bilinear differ at the edge
    if not len(found.labels):
        return  # its box's centre is outside
    canvas = (64, 64)
    batch = collate([found], canvas, PLAIN, Layout(1, 1, "image"))
    mask = batch.ground_truth.masks[0, 0, :height, :width] > 0
    assert np.mean(mask != white) < 0.03 and mask.any()
    x0, y0, x1, y1 = found.boxes[0]
    rows, columns = np.nonzero(white)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    outside = np.asarray([x0, y0, -x1, -y1]) - seen * np.asarray([1, 1, -1, -1])
    assert outside.max() <= 1.0
    if (height, width) != (40, 60):  # all of it is there: the box is tight, up to a sharp corner
        assert outside.min() >= -2.5


def test_batches_have_the_canvas_of_the_whole_picture():
    how = Augmentation(jitter=(0.1, 2.0))
    data = dataset([(40, 60), (60, 40)], training=True, batch_size=1, augmentation=how)
    for batch in data.batches(0, 30):
        (size,), canvas = batch.images.sizes, batch.images.pixels.shape[1:3]
        assert (size <= canvas).all() and np.isfinite(batch.images.pixels).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter": (2.0,)}, r"must be \(least, most\)"),
        ({"jitter": (0.0, 1.0)}, r"must be \(least, most\)"),
        ({"jitter": (0.1, 2.0), "crop": True}, "excludes"),
    ],
)
def test_wrong_factors_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataset([(40, 60)], training=True, augmentation=Augmentation(**options))
