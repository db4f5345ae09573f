"""SSD's augmentations: other colours, a larger canvas, a part of the picture."""

import colorsys

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from pac_keras.data import Augmentation, Preprocessing, Sample, Segmentation, augment
from pac_keras.data.augment import (
    cropped_window,
    cut,
    distort,
    expanded_window,
    flip,
    resize,
    scale_saturation,
    turn_hue,
)
from pac_keras.data.collate import Layout, collate
from pac_keras.detections.paste import paste_mask
from pac_keras.structures import CROWD
from tests.data_pipeline.list_source import dataset, rectangle

BLACK = Preprocessing(48, 48, mean=(0, 0, 0), std=(1, 1, 1), keep_ratio=False)
SSD = Augmentation(flip=0.5, expand=4.0, crop=True)


def sample(box=(8, 6, 32, 24), size=(40, 60), more=()):
    """A white rectangle on black, as a polygon and as run lengths; `more` = (box, label)s."""
    image = np.zeros((*size, 3), "uint8")
    left, top, right, bottom = box
    image[top:bottom, left:right] = 255
    rle = mask_utils.encode(np.asfortranarray(image[..., 0] // 255))
    return Sample(
        image=image,
        boxes=np.asarray([box, box, *(other for other, _ in more)], "float32"),
        labels=np.asarray([0, 1, *(label for _, label in more)], "int32"),
        segmentations=(
            rectangle(box),
            Segmentation(rle=rle),
            *(rectangle(other) for other, _ in more),
        ),
        semantic=image[..., 0] // 255,
        image_id=1,
        size=size,
    )


def moved(sample, point):
    """A stored (x, y) in pixels of the sample's picture."""
    return (sample.transform[:, 0] * point + sample.transform[:, 1]).tolist()


def masks(sample, frame, canvas=(64, 64)):
    """bool `[G, H, W]`: what the batch says of the objects, drawn on the canvas."""
    truth = collate([sample], canvas, BLACK, Layout(len(sample.labels), 4, frame)).ground_truth
    rows = zip(truth.masks[0], truth.mask_frames[0], strict=True)
    return np.stack([paste_mask(mask, box, canvas) for mask, box in rows])


def test_cut_inside_the_picture():
    part = cut(sample(), (4, 2, 34, 22), (40, 60), (9, 9, 9))  # 30 x 20, twice as large
    assert part.boxes.tolist() == [[8, 8, 56, 40]] * 2  # 24 - 2 = 22 rows, cut at 20
    assert moved(part, (8, 6)) == [8, 8]
    np.testing.assert_array_equal(part.image, resize(sample(), (80, 120)).image[4:44, 8:68])
    assert (part.semantic[8:, 8:56] == 1).all() and part.semantic.sum() == 32 * 48
    assert part.size == (40, 60)
    assert moved(flip(part), (8, 6)) == [52, 8]


def test_cut_beyond_the_picture():
    large = cut(sample(), (-5, -3, 65, 47), (50, 70), (7.4, 8, 9))
    assert large.boxes.tolist() == [[13, 9, 37, 27]] * 2
    assert moved(large, (0, 0)) == [5, 3]
    np.testing.assert_array_equal(large.image[3:43, 5:65], sample().image)
    outside = np.ones((50, 70), bool)
    outside[3:43, 5:65] = False
    assert (large.image[outside] == (7, 8, 9)).all()
    assert (large.semantic[outside] == 255).all() and (large.semantic[~outside] < 2).all()


@pytest.mark.parametrize("window", [(0, 0, 60, 40), (5, 3, 41, 33), (-20, 4, 50, 90)])
def test_cut_is_a_slice_of_the_laid_out_canvas_resized(window):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")
    canvas = np.full((240, 360, 3), (50, 60, 70), "uint8")
    canvas[100:140, 150:210] = noise
    x0, y0, x1, y1 = np.add(window, (150, 100, 150, 100))
    laid_out = sample()._replace(image=canvas[y0:y1, x0:x1])
    for size in ((48, 48), (31, 100), (y1 - y0, x1 - x0)):
        part = cut(sample()._replace(image=noise), window, size, (50, 60, 70))
        np.testing.assert_array_equal(part.image, resize(laid_out, size).image)


def test_objects_whose_centre_is_outside_are_dropped():
    rows = [((0, 0, 20, 20), 2), ((0, 0, 60, 40), CROWD), ((16, 10, 60, 30), 3), ((1, 1, 9, 9), 3)]
    part = cut(sample(more=rows), (12, 4, 40, 30), (26, 28), (0, 0, 0))
    assert part.labels.tolist() == [0, 1, CROWD, 3]  # centres (20, 15) twice, (30, 20), (38, 20)
    assert part.boxes.tolist() == [[0, 2, 20, 20]] * 2 + [[0, 0, 28, 26], [4, 6, 28, 26]]
    assert len(part.segmentations) == 4
    part = cut(sample(more=rows), (0, 0, 30, 20), (20, 30), (0, 0, 0))
    assert part.labels.tolist() == [0, 1, 2, 3]  # the crowd's centre is on the edge


def test_objects_of_which_nothing_is_left_are_dropped():
    corners = np.asarray([[0, 0], [4, 0], [4, 36], [60, 36], [60, 40], [0, 40]], "float64")
    angle = sample()._replace(  # an L whose box has its centre where no pixel is
        boxes=np.asarray([[0, 0, 60, 40], [30, 0, 30, 40]], "float32"),
        segmentations=(Segmentation((corners,)), rectangle((30, 0, 30, 40))),
    )
    assert cut(angle, (10, 10, 50, 30), (20, 40), (0, 0, 0)).labels.tolist() == []
    assert cut(angle, (10, 10, 50, 38), (28, 40), (0, 0, 0)).labels.tolist() == [0]
    assert cut(angle, (-9, -9, 70, 50), (59, 79), (0, 0, 0)).labels.tolist() == [0, 1]


@pytest.mark.parametrize("frame", ["image", (112, 112)])
def test_masks_lie_on_the_moved_pixels(frame):
    """Where the picture is pure white or black, the masks of both kinds say so."""
    seen = set()
    for seed in range(60):
        found = augment.augment(sample(), BLACK, SSD, np.random.default_rng(seed))
        assert found.labels.tolist() == [0, 1] and found.image.shape == (48, 48, 3)
        drawn = masks(found, frame)
        assert not drawn[:, 48:].any() and not drawn[:, :, 48:].any()
        colour = found.image[..., 0]
        inside, outside = _away_from_edges(colour == 255), _away_from_edges(colour == 0)
        for mask in drawn[:, :48, :48]:
            assert mask[inside].all() and not mask[outside].any()
        edges = found.boxes[0]
        rows, columns = np.nonzero(colour > 127)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(edges, tight, atol=2)
        seen.add((edges.min() == 0, edges.max() == 48, found.transform[0, 0] < 0))
    assert len(seen) == 8  # cut on the left or top, on the right or bottom, mirrored: and not


def _away_from_edges(pixels):
    """bool: pixels whose neighbours are the same; the picture's edge is no other pixel."""
    padded = np.pad(pixels, 1, mode="edge")
    rows = padded[:-2] & padded[1:-1] & padded[2:]
    return rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]


@pytest.mark.parametrize("frame", ["image", (112, 112), (28, 56)])
def test_an_object_around_the_crop_fills_the_picture_and_nothing_else(frame):
    part = cut(sample(), (14, 9, 26, 21), (48, 48), (0, 0, 0))
    expected = np.zeros((64, 64), bool)
    expected[:48, :48] = True
    for found in (part, flip(part)):
        np.testing.assert_array_equal(masks(found, frame), [expected] * 2)


def test_frames_end_where_a_crop_cuts_and_nowhere_else():
    part = cut(sample(), (14, -10, 60, 80), (90, 46), (0, 0, 0))
    truth = collate([part], (96, 64), BLACK, Layout(2, 4)).ground_truth
    assert truth.boxes[0].tolist() == [[0, 16, 18, 34]] * 2
    # Left ends the picture; on the other sides there are 1 pixel and a twentieth of the 18.
    np.testing.assert_allclose(truth.mask_frames[0], [[0, 14.1, 19.9, 35.9]] * 2, rtol=1e-6)


def test_drawn_semantic_maps_are_ignored_beyond_the_stored_picture():
    large = cut(sample()._replace(semantic=None), (-20, -14, 76, 50), (64, 96), (0, 0, 0))
    cells = collate([large], (64, 96), BLACK, Layout(2, 4)).ground_truth.semantic[0]
    rows, columns = 8 * np.arange(8) + 0.5, 8 * np.arange(12) + 0.5  # the picture: 20..80, 14..54
    picture = ((rows > 14) & (rows < 54))[:, None] & ((columns > 20) & (columns < 80))
    np.testing.assert_array_equal(cells != 255, picture)
    assert set(cells[picture].tolist()) == {1, 4}


def test_expanded_window_holds_the_picture():
    random = np.random.default_rng(0)
    windows = np.asarray([expanded_window((40, 60), 4.0, random) for _ in range(2000)])
    sides = windows[:, 2:] - windows[:, :2]
    larger = (sides > (60, 40)).any(axis=1)
    assert 0.46 < larger.mean() < 0.54  # a half; the deviation is 0.011
    assert (windows[:, :2] <= 0).all() and (windows[:, 2:] >= (60, 40)).all()
    assert (sides <= (240, 160)).all() and (sides[larger].mean(axis=0) / (60, 40) > 2.4).all()
    assert np.abs(sides[:, 0] / 60 - sides[:, 1] / 40).max() < 1 / 40
    place = -windows[larger, :2] / np.maximum(sides[larger] - (60, 40), 1)
    np.testing.assert_allclose(place.mean(axis=0), 0.5, atol=0.03)
    assert expanded_window((40, 60), 1.0, random) == (0, 0, 60, 40)


@pytest.mark.parametrize(
    ("least", "box", "kinds"),
    [(0.0, (0, 0, 24, 18), 200), (0.5, (-20, 0, 60, 55), 200), (0.9, (-28, -8, 68, 59), 20)],
)
def test_cropped_window_keeps_the_least_iou(least, box, kinds, monkeypatch):
    monkeypatch.setattr(augment, "_LEAST_IOUS", (least,))
    window, shape = (-30, -10, 70, 60), sample(more=[((-30, -10, 60, 60), CROWD)])
    shape = shape._replace(
        boxes=np.asarray([box, box, shape.boxes[2]], "float32"),
        segmentations=(rectangle(box), rectangle(box), shape.segmentations[2]),
    )
    parts = {cropped_window(window, shape, np.random.default_rng(k)) for k in range(300)}
    assert len(parts) > kinds
    center_x, center_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    for part in parts - {window}:
        width, height = part[2] - part[0], part[3] - part[1]
        assert part[0] >= -30 and part[1] >= -10 and part[2] <= 70 and part[3] <= 60
        assert 0.5 <= height / width <= 2 and 30 <= width <= 100 and 21 <= height <= 70
        assert part[0] < center_x < part[2] and part[1] < center_y < part[3]
        shared = min(part[2], box[2]) - max(part[0], box[0])
        shared *= min(part[3], box[3]) - max(part[1], box[1])
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert shared / (width * height + area - shared) >= least


def test_a_crop_never_loses_all_objects(monkeypatch):
    crowd = sample()._replace(labels=np.asarray([CROWD] * 2, "int32"))
    for seed in range(20):
        assert cropped_window((0, 0, 60, 40), crowd, np.random.default_rng(seed)) == (0, 0, 60, 40)
    for seed in range(100):
        found = augment.augment(
            sample(box=(0, 0, 3, 4)), BLACK, SSD, np.random.default_rng((1, seed))
        )
        assert found.labels.tolist() == [0, 1]
    monkeypatch.setattr(augment, "_LEAST_IOUS", (augment._WHOLE,))
    assert cropped_window((0, 0, 60, 40), sample(), np.random.default_rng(0)) == (0, 0, 60, 40)


def test_a_fair_share_of_pictures_is_cropped():
    random = np.random.default_rng(0)
    windows = [cropped_window((0, 0, 60, 40), sample(), random) for _ in range(700)]
    whole = windows.count((0, 0, 60, 40)) / 700
    assert 1 / 7 < whole < 1 / 4  # one choice of seven, more where the others fail (0.9: mostly)


def test_colours_as_in_hsv():
    colours = np.random.default_rng(0).integers(0, 256, (1, 200, 3)).astype("float32")
    colours[0, :4] = [[255, 0, 0], [9, 9, 9], [0, 0, 0], [200, 200, 10]]
    turned, paler = turn_hue(colours, -18.0)[0], scale_saturation(colours, 0.5)[0]
    for before, hue, saturation in zip(colours[0] / 255, turned, paler, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        expected = np.asarray(colorsys.hsv_to_rgb((h - 18 / 360) % 1, s, v))
        np.testing.assert_allclose(hue, 255 * expected, atol=1e-3)
        expected = np.asarray(colorsys.hsv_to_rgb(h, s / 2, v))
        np.testing.assert_allclose(saturation, 255 * expected, atol=1e-3)


def test_distort_changes_colours_alone_and_not_always():
    grey = sample()._replace(image=np.full((4, 5, 3), 100, "uint8"))
    random = np.random.default_rng(0)
    found = [distort(grey, random) for _ in range(600)]
    levels = np.asarray([one.image[0, 0, 0] for one in found])
    assert all((one.image == level).all() for one, level in zip(found, levels, strict=True))
    assert 0.2 < np.mean(levels == 100) < 0.3  # neither brightness nor contrast
    assert 34 <= levels.min() < 45 and 175 < levels.max() <= 198  # (100 +- 32) * (0.5 .. 1.5)
    np.testing.assert_array_equal(found[0].boxes, grey.boxes)
    bright = sample()._replace(image=np.tile(np.uint8([250, 5, 128]), (4, 5, 1)))
    colours = {tuple(distort(bright, random).image[0, 0].tolist()) for _ in range(100)}
    assert len(colours) > 80
    assert max(colours)[0] == 255 and min(green for _, green, _ in colours) == 0


def test_off_by_default_and_the_same_from_the_same_seed():
    assert Augmentation() == (0.5, (), False, 1.0, False, ())
    plain = augment.augment(sample(), BLACK, Augmentation(flip=0), np.random.default_rng(0))
    for field, expected in zip(plain, resize(sample(), (48, 48)), strict=True):
        np.testing.assert_equal(field, expected)
    everything = SSD._replace(photometric=True)
    first, again, other = (
        augment.augment(sample(), BLACK, everything, np.random.default_rng(seed))
        for seed in (5, 5, 6)
    )
    for field, expected in zip(first, again, strict=True):
        np.testing.assert_equal(field, expected)
    assert (first.image != other.image).any()


def test_with_keep_ratio_parts_fit_into_the_whole_pictures_size():
    keep = Preprocessing(40, 64, mean=(0, 0, 0), std=(1, 1, 1))
    sizes = [(40, 60), (33, 64), (60, 40), (50, 50)]
    data = dataset(sizes, training=True, batch_size=1, preprocessing=keep, augmentation=SSD)
    for batch in data.batches(0, 20):
        (size,), canvas = batch.images.sizes, batch.images.pixels.shape[1:3]
        assert canvas in ((64, 64), (64, 96)) and (size <= canvas).all()
        assert (batch.ground_truth.labels[0] >= 0).any()
    for seed in range(20):
        part = augment.augment(sample(), keep, SSD, np.random.default_rng(seed))
        height, width = part.image.shape[:2]
        assert height == 40 or width == 60
        scale_x, scale_y = np.abs(part.transform[:, 0])
        assert abs(scale_x / scale_y - 1) < 0.05  # whole pixels at both ends
