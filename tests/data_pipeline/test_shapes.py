"""The built-in data set is reproducible, consistent, and cannot be solved by boxes alone."""

import itertools

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pac_keras.data.image import normalize
from pac_keras.data.scenes import STUFF, THINGS
from pac_keras.data.shapes import ShapesSource, shapes

PICTURES = 80


@pytest.fixture(scope="module")
def source():
    return ShapesSource("valid", PICTURES)


@pytest.fixture(scope="module")
def scenes(source):
    return [source.scene(index) for index in range(PICTURES)]


@pytest.fixture(scope="module")
def objects(scenes):
    """(label, mask, occlusion) of every object."""
    rows = [zip(scene.labels, scene.masks, scene.occlusion, strict=True) for scene in scenes]
    return list(itertools.chain.from_iterable(rows))


def test_a_picture_depends_on_seed_split_and_index_alone(source):
    again = ShapesSource("valid", 4)
    again[0]
    for field, expected in source.scene(3)._asdict().items():
        np.testing.assert_array_equal(getattr(again.scene(3), field), expected)
    others = [ShapesSource("train", 4), ShapesSource("valid", 4, seed=1)]
    pictures = [source[2].image, source[3].image, *(other[3].image for other in others)]
    for first, second in itertools.combinations(pictures, 2):
        assert np.mean(first != second) > 0.5


def test_masks_are_disjoint_and_lie_tightly_in_their_boxes(source, scenes):
    for index, scene in enumerate(scenes):
        assert scene.masks.sum(axis=0).max() == 1
        for mask, box in zip(scene.masks, source[index].boxes, strict=True):
            rows, columns = np.nonzero(mask)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(box, expected)


def test_the_semantic_map_has_things_on_their_masks_and_stuff_elsewhere(source, scenes):
    assert len(THINGS) >= 5 and len(STUFF) >= 3
    for scene in scenes:
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            assert np.all(scene.semantic[mask] == label)
        assert scene.semantic[~scene.masks.any(axis=0)].min() >= len(THINGS)
    seen = np.unique([scene.semantic for scene in scenes])
    np.testing.assert_array_equal(seen, np.arange(source.num_semantic_classes))


def test_every_class_is_common(source, objects):
    shares = np.bincount([label for label, _, _ in objects], minlength=len(THINGS)) / len(objects)
    assert len(objects) > 200
    assert shares.min() > 0.5 / len(THINGS)
    assert [category.name for category in source.categories] == list(THINGS)


def test_pictures_hold_up_to_four_objects_of_useful_size(scenes, objects):
    counts = [len(scene.labels) for scene in scenes]
    assert min(counts) >= 1 and max(counts) == 4 and np.mean(counts) > 2
    sides = [np.ptp(np.nonzero(mask), axis=1).max() + 1 for _, mask, _ in objects]
    assert np.quantile(sides, 0.05) >= 28 and max(sides) <= 96
    assert min(np.count_nonzero(mask) for _, mask, _ in objects) >= 100


def test_at_least_a_quarter_of_the_objects_is_occluded(objects):
    hidden = np.asarray([occlusion for _, _, occlusion in objects])
    assert hidden.min() == 0
    assert hidden.max() <= 0.25
    assert np.mean(hidden >= 0.1) >= 0.25


def test_only_what_lies_behind_is_occluded(scenes):
    touched = 0
    for scene in scenes:
        assert scene.occlusion[-1] == 0  # the front one
        for index in np.flatnonzero(scene.occlusion >= 0.1):
            grown = scene.masks[index].copy()
            for axis, step in itertools.product((0, 1), (-1, 1)):
                grown |= np.roll(scene.masks[index], step, axis)
            assert (grown & scene.masks[index + 1 :].any(axis=0)).any()
            touched += 1
    assert touched > 50


def test_most_of_a_box_is_not_its_object(source, scenes):
    fills = []
    for index, scene in enumerate(scenes):
        x0, y0, x1, y1 = source[index].boxes.T
        fills.extend(scene.masks.sum(axis=(1, 2)) / ((x1 - x0) * (y1 - y0)))
    assert max(fills) < 0.6 and np.median(fills) < 0.5


def test_strokes_are_wide_enough_to_be_learnt(objects):
    """Half of a whole object's pixels survive when 1 pixel is taken off all around."""
    for _, mask, occlusion in objects:
        if occlusion == 0:
            padded = np.pad(mask, 1)
            inner = padded.copy()
            for axis, step in itertools.product((0, 1), (-1, 1)):
                inner &= np.roll(padded, step, axis)
            assert inner.sum() > 0.5 * mask.sum()


def test_the_ground_truth_json_says_the_same_as_the_samples(source, scenes):
    truth = source.coco_json()
    annotations = iter(truth["annotations"])
    for index, scene in enumerate(scenes):
        sample = source[index]
        np.testing.assert_array_equal(source.labels[index], sample.labels)
        rows = zip(sample.labels, sample.boxes, sample.segmentations, scene.masks, strict=True)
        for (label, box, shape, mask), annotation in zip(rows, annotations, strict=False):
            assert annotation["image_id"] == sample.image_id == source.image_ids[index]
            assert annotation["category_id"] == source.categories[label].id
            x, y, width, height = annotation["bbox"]
            np.testing.assert_array_equal(box, [x, y, x + width, y + height])
            assert annotation["area"] == mask.sum()
            np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), mask)
            np.testing.assert_array_equal(coco_mask.decode(shape.rle), mask)
    assert next(annotations, None) is None


def test_pictures_are_not_resized_and_training_only_flips_them():
    valid = shapes(training=False, batch_size=4, count=4)
    (batch,) = valid
    for row in range(4):
        expected = normalize(valid.source[row].image, valid.preprocessing)
        np.testing.assert_allclose(batch.images.pixels[row], expected, atol=1e-6)
    train = shapes(training=True, batch_size=8, count=8, frame=(28, 56))
    assert next(train.batches()).ground_truth.masks.shape[2:] == (28, 56)
    originals = {i: normalize(train.source[i].image, train.preprocessing) for i in range(8)}
    (batch,) = train
    flipped = 0
    for pixels, image_id in zip(
        batch.images.pixels, batch.ground_truth.image_ids.tolist(), strict=True
    ):
        same = np.abs(pixels - originals[image_id]).max() < 1e-5
        mirrored = np.abs(pixels[:, ::-1] - originals[image_id]).max() < 1e-5
        assert same or mirrored
        flipped += mirrored
    assert 0 < flipped < 8


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"split": "test"}, "split"),
        ({"count": 0}, "count"),
        ({"size": 32}, "size"),
        ({"seed": -1}, "seed"),
        ({"count": 1.5}, "count"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        ShapesSource(**{"split": "train", "count": 1, **arguments})


def test_an_index_beyond_the_end_is_an_index_error(source):
    with pytest.raises(IndexError, match=str(PICTURES)):
        source[PICTURES]
